"""Whole numbers in headers and forms."""

import pytest

from server.values.whole_numbers import whole_number


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("12", 12), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_digits_are_a_number(text: str, number: int):
    assert whole_number(text) == number


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "1e3", " 1", "x", "²", "١٢", "9" * 19, "9" * 5000])
def test_anything_else_is_none(text: str):
    assert whole_number(text) is None
