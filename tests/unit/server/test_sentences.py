"""What pydantic finds wrong, in one sentence that names the field as the client wrote it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import Annotated

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

import wire
from server.values.sanitizing import MOST_LEVELS, is_storable, readable_json, storable_json
from server.values.validation_messages import field_name, first_problem
from tests.unit.server.readings import nest
from wire.errors import InvalidRequest


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    count: int


class Outer(BaseModel):
    items: list[Inner]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"items": [{"count": 1}, {}]}', "items[1].count is missing"),
        ('{"items": [{"count": 1, "x": 2}]}', "unknown field items[0].x"),
        ('{"items": [{"count": "a"}]}', "items[0].count: should be a valid integer"),
        ('{"items": ', "the body is not valid JSON: EOF while parsing"),
        ("[]", "the body must be a JSON object"),
    ],
)
def test_a_validation_error_becomes_a_sentence(text, sentence):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate_json(text)
    assert first_problem(caught.value.errors()).startswith(sentence)


class Chosen(BaseModel):
    stop: str | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=2)] | None = None
    checked: Annotated[str, AfterValidator(str.lower)] | Inner | None = None
    deep: list[Annotated[int, AfterValidator(abs)] | list[Inner]] = []
    prompt: str | list[str] | Annotated[list[int], Field(max_length=2)] = ""


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"stop": 5}, "stop: should be a valid string or a valid list"),
        ({"stop": ["a", 5]}, "stop[1]: should be a valid string"),
        ({"stop": ["a", "b", "c"]}, "stop: list should have at most 2 items, not 3"),
        ({"checked": 5}, "checked: should be a valid string or an object"),
        ({"checked": []}, "checked: should be a valid string or an object"),
        ({"deep": [1, "x"]}, "deep[1]: should be a valid integer or a valid list"),
        ({"stop": [""]}, "stop[0]: string should have at least 1 character"),
        ({"prompt": [1, 2, 3]}, "prompt: list should have at most 2 items, not 3"),
        ({"deep": [1, [{"count": {}}]]}, "deep[1][0].count: should be a valid integer"),
    ],
)
@pytest.mark.parametrize("is_known", [True, False])
def test_a_value_that_fits_no_member_of_a_union_is_told_all_that_it_may_be(value, sentence, is_known):
    with pytest.raises(ValidationError) as caught:
        Chosen.model_validate(value)
    assert first_problem(caught.value.errors(), value if is_known else None) == sentence


def models_of_the_wire() -> list[type[BaseModel]]:
    modules = [importlib.import_module(f"wire.{found.name}") for found in pkgutil.iter_modules(wire.__path__)]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    return sorted((kind for kind in found if issubclass(kind, BaseModel)), key=lambda kind: kind.__qualname__)


WRONG = [{}, {"x": {}}, [], [[]], [{"x": 1}], "x", "\ud800", 1.5, -1, 10**40, True, None, b"x", float("nan")]
PYDANTIC = re.compile(
    r"\b(Input|dictionary|instance|function-|Value error|lax-or|constrained|nullable|NoneType|tuple)|<class|\[type="
)


@pytest.mark.parametrize("kind", models_of_the_wire(), ids=lambda kind: kind.__qualname__)
def test_no_sentence_names_a_type_of_pydantic_or_python(kind: type[BaseModel]):
    for name in kind.model_fields:
        for value in WRONG:
            try:
                kind.model_validate({name: value})
            except ValidationError as error:
                problems = [problem for problem in error.errors() if problem["loc"][:1] == (name,)]
                for body in ({name: value}, None) if problems else ():
                    sentence = first_problem(problems, body)
                    assert not PYDANTIC.search(sentence), sentence
                    assert re.match(rf"(unknown field )?{name}\b", sentence), sentence


def test_the_part_of_the_request_is_no_part_of_the_name():
    assert field_name(("body", "inputs", 3, "reward")) == "inputs[3].reward"
    assert field_name(("query", "limit")) == "limit"


def test_values_are_made_storable():
    assert storable_json({"a\x00": ["\ud800", float("inf"), 1]}, "extra") == {"a\ufffd": ["?", "inf", 1]}
    assert not is_storable("a\x00")
    assert is_storable("ä")


def test_values_that_are_nested_too_deeply_are_not_stored_and_can_be_read():
    assert storable_json(nest(b"", MOST_LEVELS), "extra") == nest(b"", MOST_LEVELS)
    for levels in (MOST_LEVELS + 1, 5_000):
        with pytest.raises(InvalidRequest, match="extra is nested too deeply"):
            storable_json({"there": [1], "here": nest(b"", levels - 1)}, "extra")
        assert b"too deeply to be shown" in readable_json({"span": nest(b"", levels + 100)})
