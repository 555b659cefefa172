"""What pydantic finds wrong, in one sentence that names the field as the client wrote it."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from server.sentences import field_name, first_problem
from server.storable import is_storable, storable_json


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
    assert storable_json({"a\x00": ["\ud800", float("inf"), 1]}) == {"a\ufffd": ["?", "inf", 1]}
    assert not is_storable("a\x00")
    assert is_storable("ä")
