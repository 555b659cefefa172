"""How many messages continued ids cover, with and without a system message that the client does not count."""

from __future__ import annotations

import pytest

from server.protocols.openai.continuation import covered_messages
from wire.errors import InvalidRequest


def chat(roles: str):
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": names[letter]} for letter in roles]


@pytest.mark.parametrize(
    ("roles", "continuation_from", "covered"),
    [
        ("uat", 2, 2),
        ("suat", 2, 3),
        ("suat", 3, 3),
        ("uatat", 4, 4),
        ("suatat", 4, 5),
        ("uua", 3, 3),
        ("ua", 2, 2),
        ("sua", 2, 3),
    ],
)
def test_the_ids_end_with_an_answer(roles, continuation_from, covered):
    assert covered_messages(chat(roles), continuation_from) == covered


@pytest.mark.parametrize(
    ("roles", "continuation_from"), [("uat", 1), ("uat", 3), ("u", 1), ("su", 1), ("uat", 99), ("suut", 2)]
)
def test_a_boundary_without_an_answer_before_it_is_refused(roles, continuation_from):
    with pytest.raises(InvalidRequest, match="continuation_from is"):
        covered_messages(chat(roles), continuation_from)
