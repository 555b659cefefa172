"""Any JSON schema either has its effect or is refused with a sentence, and no answer under one goes on without end."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampler.backends.base import SamplerInfo
from sampler.backends.local.constraints import Constraints
from sampler.chat.json_schemas import MAX_BLANKS
from sampler.vocabulary import Vocabulary
from tests.unit.sampler.conftest import build_tokenizer
from wire.errors import InvalidRequest
from wire.sampling import Constraint

TOKENIZER = build_tokenizer()
VOCABULARY = Vocabulary(TOKENIZER)
SIZE = len(TOKENIZER) + 3
END = TOKENIZER.eos_token_id
WITH_END, WITHOUT_END = (
    Constraints(TOKENIZER, VOCABULARY, SamplerInfo(SIZE, 512, eos_ids)) for eos_ids in ((END,), ())
)
BLANKS = tuple(b" \t\r\n")
CLOSED = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2]}, "b": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "add", "parameters": CLOSED}}


def write(constraint: dict[str, Any], choose: Any, constraints: Constraints = WITH_END, limit: int = 600) -> str | None:
    """What is written when `choose` picks each token among those that may come; None if it does not end."""
    form, data = constraints.start(Constraint(**constraint)), b""
    for _ in range(limit):
        allowed = form.allowed_V().nonzero()[:, 0].tolist()
        if not allowed:
            raise InvalidRequest(form.error)
        if (token_id := choose(allowed)) == END:
            return data.decode()
        data += VOCABULARY.bytes_of(token_id)
        if form.take(token_id):
            return data.decode()
    return None


def blanks_first(allowed: list[int]) -> int:
    blank = [token_id for token_id in allowed if VOCABULARY.bytes_of(token_id) in (b" ", b"\n", b"\t", b"\r")]
    return (blank or allowed)[0]


def shortest(seed: int) -> Any:
    """Closes what is open as soon as it may, and is random otherwise."""
    draw = random.Random(seed)

    def choose(allowed: list[int]) -> int:
        closing = [
            token_id for token_id in allowed if token_id == END or VOCABULARY.bytes_of(token_id) in (b"}", b"]", b'"')
        ]
        return draw.choice(closing if closing and draw.random() < 0.7 else allowed)

    return choose


@pytest.mark.parametrize("constraints", [WITH_END, WITHOUT_END], ids=["end token", "no end token"])
@pytest.mark.parametrize(
    "constraint",
    [
        {"json_schema": CLOSED},
        {"calls": {"tools": [TOOL], "single": True}},
        {"json_schema": {**CLOSED, "x-guidance": {}}},
    ],
    ids=["schema", "call", "schema with options of its own"],
)
def test_a_policy_that_writes_blanks_wherever_it_may_comes_to_an_end(constraint, constraints):
    text = write(constraint, blanks_first, constraints)
    assert text is not None
    assert " " * (MAX_BLANKS + 1) not in text.replace("\n", " ").replace("\t", " ").replace("\r", " ")
    json_text = text.removeprefix("<tool_call>").removesuffix("</tool_call>")
    arguments = json.loads(json_text).get("arguments", json.loads(json_text))
    jsonschema.validate(arguments, CLOSED)


def test_indented_json_is_still_of_the_form():
    wanted = iter(json.dumps({"a": 1, "b": [True, False]}, indent=7))

    def choose(allowed: list[int]) -> int:
        if (letter := next(wanted, None)) is None:
            return END
        assert TOKENIZER.encode(letter)[0] in allowed
        return TOKENIZER.encode(letter)[0]

    assert json.loads(write({"json_schema": CLOSED}, choose) or "") == {"a": 1, "b": [True, False]}


@pytest.mark.parametrize(
    ("constraint", "answers"),
    [({"regex": "[0-9]{3}"}, 3), ({"choice": ["yes", "no"]}, 3), ({"grammar": 'start: "ab" "c"?'}, 3)],
)
def test_a_base_without_an_end_token_ends_when_nothing_more_may_come(constraint, answers):
    for seed in range(4):
        text = write(constraint, random.Random(seed).choice, WITHOUT_END)
        assert text is not None
        assert 1 < len(text) <= answers


HUGE = 10**40


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": HUGE},
        {"type": "integer", "maximum": -HUGE},
        {"type": "integer", "minimum": 2**70, "maximum": 2**70 + 5},
        {"type": "integer", "exclusiveMinimum": HUGE},
        {"type": "integer", "multipleOf": HUGE},
        {"type": "object", "properties": {"n": {"anyOf": [{"type": "integer", "minimum": HUGE}]}}},
        {"type": "number", "maximum": float("inf")},
        {"const": float("nan")},
        {"const": HUGE},
        {"enum": [2**53 + 1, "x"]},
        {"const": {"minimum": [2**70]}},
        {"const": 10**400},
        {"const": 10**5000},
        {"type": "string", "minLength": HUGE},
        {"type": "string", "const": "\ud800"},
        {"enum": []},
        {"not": {}},
        {"$ref": "#/nowhere"},
        {"allOf": [{"$ref": "#"}]},
        {"const": -(2**63)},
        {"enum": ["x", [{"a": 1 - 2**63}]]},
        {"type": "integer", "minimum": 1 - 2**63, "maximum": 1 - 2**63},
        {"type": "integer", "minimum": -9.3e18},
        {"properties": {"default": {"const": -(2**63)}}, "required": ["default"]},
        {"$ref": "#/$defs/0", "$defs": {str(i): {"items": {"$ref": f"#/$defs/{i + 1}"}} for i in range(5000)}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_call", [False, True])
def test_a_schema_that_cannot_be_kept_is_refused(schema, as_call):
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    constraint = {"calls": {"tools": [tool]}} if as_call else {"json_schema": schema}
    if as_call and schema.keys() & {"const", "enum"} and schema.get("enum") != []:
        constraint["calls"]["tools"][0]["function"]["parameters"] = {"properties": {"a": schema}, "required": ["a"]}
    with pytest.raises(InvalidRequest):
        write(constraint, shortest(0))


@pytest.mark.parametrize("directive", ["%json {}", '%llguidance {}\\nstart: "a"', "%lark {}"])
def test_a_grammar_that_embeds_another_kind_is_refused(directive):
    with pytest.raises(InvalidRequest, match="a grammar cannot hold %"):
        WITH_END.start(Constraint(grammar=f"start: {directive}"))


def test_a_number_that_says_nothing_about_answers_may_be_as_large_as_it_likes():
    assert write({"json_schema": {"type": "boolean", "default": HUGE, "examples": [HUGE]}}, shortest(0)) is not None


NUMBERS = st.integers(-20, 20) | st.sampled_from(
    [HUGE, -HUGE, 2**53 + 1, 2**62, 2**63, -(2**63), 1 - 2**63, 0.5, 1e300, -1e-300]
)
PLAIN = st.none() | st.booleans() | NUMBERS | st.text(max_size=4)
TYPES = ["string", "integer", "number", "boolean", "null", "object", "array", "odd", 5]
ODD = [{}, {"not": {}}, {"if": {}, "then": {}}, {"x-guidance": {"lenient": True}}, {"uniqueItems": True}]
LEAVES = (
    st.fixed_dictionaries({"type": st.sampled_from(TYPES)})
    | st.fixed_dictionaries({"const": PLAIN})
    | st.fixed_dictionaries({"enum": st.lists(PLAIN, max_size=3)})
    | st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number"])},
        optional={"minimum": NUMBERS, "maximum": NUMBERS, "exclusiveMaximum": NUMBERS, "multipleOf": NUMBERS},
    )
    | st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={
            "minLength": NUMBERS,
            "maxLength": NUMBERS,
            "pattern": st.sampled_from(["a+", "(", "^[0-9]{2}$", "(?=a)b", "\\p{L}", "a{1000000}", ""]),
            "format": st.sampled_from(["date", "email", "uuid", "nonsense"]),
        },
    )
    | st.fixed_dictionaries({"$ref": st.sampled_from(["#", "#/$defs/a", "#/nowhere", "http://x/y", ""])})
    | st.sampled_from(ODD)
)  # fmt: skip


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "b", "ü", "", "minimum"])
    return (
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(names, inner, max_size=3)},
            optional={
                "required": st.lists(names, max_size=2),
                "additionalProperties": st.booleans() | inner,
                "$defs": st.dictionaries(st.just("a"), inner, max_size=1),
                "maxProperties": NUMBERS,
            },
        )
        | st.fixed_dictionaries(
            {"type": st.just("array"), "items": inner}, optional={"minItems": NUMBERS, "maxItems": NUMBERS}
        )
        | st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=3)})
        | st.fixed_dictionaries({"allOf": st.lists(inner, max_size=2)})
        | st.fixed_dictionaries({"oneOf": st.lists(inner, max_size=2)})
    )


@settings(max_examples=150, deadline=None)
@given(st.recursive(LEAVES, nested, max_leaves=6), st.integers(0, 3))
def test_any_schema_has_its_effect_or_is_refused(schema, seed):
    try:
        text = write({"json_schema": schema}, shortest(seed), limit=150)
    except InvalidRequest as refused:
        assert refused.message
        return
    if text is not None:
        answer = json.loads(text)
        with contextlib.suppress(jsonschema.SchemaError, RecursionError):  # of schemas that jsonschema cannot read
            jsonschema.validate(answer, schema)
