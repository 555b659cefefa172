"""What pydantic finds wrong, in one sentence that names the field as the client wrote it."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from server.sentences import field_name, first_problem
from server.storable import MOST_LEVELS, is_storable, readable_json, storable_json
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
