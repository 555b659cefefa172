"""Tools, choices and schemas that are too much work are refused before any of it."""

from __future__ import annotations

import pytest

from sampler.admission.request_sizes import check_sizes
from wire.errors import InvalidRequest
from wire.sampling import Constraint, ForcedCalls, GenerateRequest, ParseOptions, RenderRequest, SamplingParams


def tools(count: int, **parameters) -> list[dict]:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, **parameters}
    return [{"type": "function", "function": {"name": f"f{i}", "parameters": schema}} for i in range(count)]


def asked(constraint: Constraint | None = None, **more) -> GenerateRequest:
    return GenerateRequest(adapter="a", params=SamplingParams(constraint=constraint), **more)


def nested(depth: int) -> dict:
    schema: dict = {"type": "string"}
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    return schema


def offered(some: list[dict]) -> dict:
    return {"chat": RenderRequest(messages=[], tools=some), "reading": ParseOptions(tools=some)}


TOO_MUCH = {
    "tools": (asked(**offered(tools(5000))), "tools are 5000; 1024 at most"),
    "large tools": (asked(**offered(tools(2, description="x" * 600_000))), "tools are larger than 1048576 bytes"),
    "forced tools": (asked(Constraint(calls=ForcedCalls(tools=tools(129)))), "tool_choice forces are 129; 128 at most"),
    "large forced": (asked(Constraint(calls=ForcedCalls(tools=tools(1, x="x" * 270_000)))), "larger than 262144 bytes"),
    "choices": (asked(Constraint(choice=["a"] * 1025)), "the choices are 1025; 1024 at most"),
    "long choices": (asked(Constraint(choice=["a" * 70_000])), "the choices: 70000 characters"),
    "wide schema": (asked(Constraint(json_schema={str(i): {} for i in range(60_000)})), "larger than 262144 bytes"),
    "list in a schema": (asked(Constraint(json_schema={"enum": [1] * 70_000})), "larger than 262144 bytes"),
    "deep schema": (asked(Constraint(json_schema=nested(40))), "nested too deeply"),
    "regex": (asked(Constraint(regex="a" * 20_000)), "the regex: 20000 characters"),
    "grammar": (asked(Constraint(grammar="a" * 20_000)), "the grammar: 20000 characters"),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_too_much_is_refused_with_the_limit(case):
    request, sentence = TOO_MUCH[case]
    with pytest.raises(InvalidRequest, match=sentence):
        check_sizes(request)


def test_what_real_requests_have_passes():
    check_sizes(asked(**offered(tools(200))))
    check_sizes(asked(Constraint(calls=ForcedCalls(tools=tools(128)))))
    check_sizes(asked(Constraint(choice=[f"option {i}" for i in range(1024)])))
    check_sizes(asked(Constraint(json_schema=nested(30))))
