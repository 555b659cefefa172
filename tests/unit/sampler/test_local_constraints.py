"""Answers that have to be of a form are, and their logprobs are those of what could come."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
import torch

from tests.unit.sampler.conftest import save_base
from wire.errors import InvalidRequest
from wire.sampling import DerenderRequest

PROMPT = [11, 12, 13, 14, 15]
PARAMETERS = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2]}},
    "required": ["a"],
    "additionalProperties": False,
}
ADD, MULTIPLY = (
    {"type": "function", "function": {"name": name, "parameters": PARAMETERS}} for name in ("add", "mul“ti”ply")
)


@pytest.mark.parametrize(
    ("constraint", "form"),
    [
        ({"regex": "[0-9]{3}"}, "[0-9]{3}"),
        ({"choice": ["yes", 'n"ö\n', "<think>"]}, 'yes|n"ö\n|<think>'),
        ({"json_schema": {"enum": ["x", 3, None]}}, '"x"|3|null'),
        ({"grammar": 'start: "a" "b"? "c"'}, "ab?c"),
    ],
)
async def test_an_answer_is_of_the_form_and_ends_when_it_is_complete(ask, constraint, form):
    answers = await asyncio.gather(*(ask(PROMPT, seed=seed, constraint=constraint) for seed in range(8)))
    for answer in answers:
        assert re.fullmatch(form, answer.text), answer.text
        assert answer.finish_reason == "stop"


async def test_json_is_valid_as_soon_as_it_ends(ask):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    asked = [ask(PROMPT, seed=seed, max_tokens=120, constraint={"json_schema": schema}) for seed in range(8)]
    ended = [answer.text for answer in await asyncio.gather(*asked) if answer.finish_reason == "stop"]
    assert ended
    assert all(isinstance(json.loads(text)["n"], int) for text in ended)


async def test_logprobs_are_the_models_own_among_what_may_come(ask, reference, tokenizer):
    digits = tokenizer.encode("0123456789", add_special_tokens=False)
    answer = await ask(PROMPT, adapter="all-targets", seed=1, top_logprobs=10, constraint={"regex": "[0-9]{4}"})
    with torch.no_grad():
        logits = reference("all-targets")(torch.tensor([[*PROMPT, *answer.ids]])).logits[0].float()
    for position in range(4):
        expected = logits[len(PROMPT) - 1 + position, digits].log_softmax(-1)
        own = expected[digits.index(answer.ids[position])].item()
        assert answer.logprobs[position] == pytest.approx(own, abs=1e-5)
        assert {top.token_id for top in answer.tokens.top_logprobs[position]} == set(digits)
    assert answer.logprobs[4] == 0.0  # nothing but the end was left


@pytest.mark.parametrize("single", [True, False])
async def test_forced_calls_are_read_as_calls(ask, backend, single):
    tools = [ADD] if single else [ADD, MULTIPLY]
    constraint = {"calls": {"tools": tools, "single": single}}
    asked = [ask(PROMPT, seed=seed, max_tokens=400, constraint=constraint) for seed in range(4)]
    ended = [answer for answer in await asyncio.gather(*asked) if answer.finish_reason == "stop"]
    assert ended
    for answer in ended:
        request = DerenderRequest(token_ids=answer.ids, text=answer.text, tools=tools, tool_choice="required")
        parsed = await backend.derender(request)
        assert parsed.content is None
        assert len(parsed.tool_calls) == 1 if single else parsed.tool_calls
        for call in parsed.tool_calls:
            assert call.name in [tool["function"]["name"] for tool in tools]
            assert json.loads(call.arguments)["a"] in (1, 2)


async def test_a_forced_call_of_a_closed_schema_always_ends(ask):
    """However random the policy: each of some ten gaps between its parts has at most 16 blanks."""
    constraint = {"calls": {"tools": [ADD], "single": True}}
    asked = [ask(PROMPT, seed=seed, max_tokens=300, temperature=5.0, constraint=constraint) for seed in range(8)]
    assert {answer.finish_reason for answer in await asyncio.gather(*asked)} == {"stop"}


@pytest.mark.parametrize("parameters", [{}, {"parameters": None}, {"parameters": {}}])
async def test_a_function_without_parameters_is_called_without_arguments(ask, backend, parameters):
    tools = [{"type": "function", "function": {"name": "now", **parameters}}]
    answer = await ask(PROMPT, seed=1, temperature=5.0, constraint={"calls": {"tools": tools, "single": True}})
    request = DerenderRequest(token_ids=answer.ids, text=answer.text, tools=tools, tool_choice="required")
    assert [json.loads(call.arguments) for call in (await backend.derender(request)).tool_calls] == [{}]


async def test_a_base_without_an_end_token_samples_and_constrains(open_backend, ask_on, tmp_path):
    save_base(tmp_path, eos_token_id=None)
    configured = tmp_path / "tokenizer_config.json"
    configured.write_text(json.dumps({**json.loads(configured.read_text()), "eos_token": None}))
    backend = open_backend(tmp_path)
    assert backend.info.eos_ids == ()
    free = await ask_on(backend, PROMPT, max_tokens=20)
    assert (len(free.ids), free.finish_reason) == (20, "length")
    for constraint in ({"regex": "[0-9]{3}"}, {"json_schema": PARAMETERS}, {"calls": {"tools": [ADD], "single": True}}):
        answer = await ask_on(backend, PROMPT, seed=1, constraint=constraint)
        assert answer.finish_reason == "stop"
        assert answer.text


async def test_whoever_runs_beside_it_notices_nothing(ask):
    alone = await ask(PROMPT, seed=3, max_tokens=30)
    beside, _ = await asyncio.gather(
        ask(PROMPT, seed=3, max_tokens=30), ask(PROMPT, seed=3, constraint={"regex": "x{30}"})
    )
    assert beside.ids == alone.ids


@pytest.mark.parametrize(
    "constraint",
    [
        {"json_schema": {"type": "nonsense"}},
        {"json_schema": {"$ref": "http://nowhere/schema"}},
        {"json_schema": {"$ref": "#/nowhere"}},
        {"json_schema": {"type": "string", "pattern": "("}},
        {"json_schema": {"allOf": [{"type": "string"}, {"type": "integer"}]}},
        {"regex": "("},
        {"grammar": "start ::= nonsense"},
        {"calls": {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "odd"}}}]}},
    ],
)
async def test_a_constraint_that_makes_no_sense_is_refused(ask, constraint):
    with pytest.raises(InvalidRequest, match="cannot keep to this constraint") as caught:
        await ask(PROMPT, constraint=constraint)
    assert caught.value.param == "constraint"


async def test_a_schema_of_which_one_alternative_must_fit_is_refused_with_what_to_say_instead(ask):
    alternatives = {"oneOf": [{"type": "string"}, {"type": "string", "minLength": 2}]}
    with pytest.raises(InvalidRequest, match="not served; say anyOf$"):
        await ask(PROMPT, constraint={"json_schema": alternatives})


@pytest.mark.parametrize("constraint", [{"regex": "(?=a)b"}, {"json_schema": {"type": "string", "pattern": "(?=a)b"}}])
async def test_the_refusal_of_an_expression_has_the_cause_on_its_one_line(ask, constraint):
    with pytest.raises(InvalidRequest, match=r"look-ahead and look-behind, is not supported$"):
        await ask(PROMPT, constraint=constraint)


async def test_a_form_that_breaks_midway_ends_its_own_request_alone(ask):
    """A control token is no text: it can stand in no answer of a form."""
    beside = asyncio.ensure_future(ask(PROMPT, seed=3, max_tokens=60, ignore_eos=True))
    with pytest.raises(InvalidRequest, match="constraint"):
        await ask(PROMPT, constraint={"choice": ["<|im_start|>"]})
    assert len((await beside).ids) == 60
