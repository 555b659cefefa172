"""A cursor says where a page ended, and nothing else passes for one."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from uuid import UUID

import pytest

from wire.cursors import make_cursor, parse_cursor
from wire.errors import InvalidRequest

SOME_ID = UUID("171aeada-369b-4d98-ad34-0626ca4e63f6")
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


def packed(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "place", [(NOW, SOME_ID), (2**63 - 1,), ("a task/é\x00",), (NOW, 0), ("", UUID(int=0))], ids=str
)
def test_a_place_comes_back(place: tuple):
    assert tuple(parse_cursor(make_cursor(*place), *map(type, place))) == place


@pytest.mark.parametrize(
    "cursor",
    [
        "", "x", "é", "a" * 10_000, "=", "\x00", packed([]), packed(None), packed([[]]), packed({"a": 1}),
        packed([True, str(SOME_ID)]), packed([1, str(SOME_ID)]), packed(["now", str(SOME_ID)]),
        packed(["2026-01-01T00:00:00", str(SOME_ID)]), packed(["9999-12-31T23:59:59+00:00", str(SOME_ID)]),
        packed([NOW.isoformat(), "7"]), packed([NOW.isoformat(), 7]), packed([NOW.isoformat(), str(SOME_ID), 1]),
        base64.urlsafe_b64encode(b"[" * 100_000).decode(), make_cursor(NOW, SOME_ID) + "!",
    ],
    ids=lambda cursor: cursor[:20],
)  # fmt: skip
def test_nothing_else_is_a_cursor(cursor: str):
    with pytest.raises(InvalidRequest, match="send a `next_cursor` as it came, or none"):
        parse_cursor(cursor, datetime, UUID)


@pytest.mark.parametrize("value", [True, -1, 2**63, 1.0, "1"])
def test_a_number_is_a_row_s_number(value: object):
    with pytest.raises(InvalidRequest):
        parse_cursor(packed([value]), int)
