"""What of a text can be found, and by what."""

from __future__ import annotations

import pytest
from sqlalchemy import text as sql

from store.database import Database
from store.rollouts.words import as_tsquery, as_tsvector, excerpt, words_of
from wire.errors import InvalidRequest

SAID = "Opened /usr/local/run_7.log at https://x.test/a?b=1: ERROR 42, “Straße” gesperrt; 東京は晴れ. Refund order-17!"


@pytest.mark.parametrize(
    ("asked", "is_found"),
    [
        ("error", True),
        ("Error 42", True),
        ("local", True),
        ("run_7", True),
        ("x.test", True),
        ("STRASSE", True),
        ("東京", True),
        ("京東", False),
        ("refund", True),
        ("refu", False),
        ("refu*", True),
        ('"refund order"', True),
        ('"order refund"', False),
        ("order refund", True),
        ("order-17", True),
        ("order-18", False),
        ("error -refund", False),
        ("error -paid", True),
        ("-paid", True),
        ("error paid", False),
        ("';drop table & | ! <-> error", False),
    ],
)
def test_a_text_is_found_by_its_words(database: Database, asked: str, is_found: bool):
    query = sql("select cast(:words as tsvector) @@ cast(:asked as tsquery)")
    with database.session() as session:
        assert session.scalar(query, {"words": as_tsvector(SAID), "asked": as_tsquery(asked)}) is is_found


@pytest.mark.parametrize("asked", ["", "  ", "...", '""', "-", " ".join(["word"] * 21)])
def test_a_search_for_no_word_or_too_many_is_refused(asked: str):
    with pytest.raises(InvalidRequest, match="1 to 20 words"):
        as_tsquery(asked)


def test_a_text_of_any_words_can_be_kept(database: Database):
    said = " ".join(f"w{number}" for number in range(20_000)) + " same" * 400 + " " + "x" * 3000 + " \x00 '\\ \ud800"
    with database.session() as session:
        assert session.scalar(sql("select length(cast(:words as tsvector))"), {"words": as_tsvector(said)}) == 20_002
    assert max(map(len, words_of(said))) == 60


def test_an_excerpt_shows_the_hit_with_what_stands_around_it():
    assert excerpt(SAID, '-paid "refund order"', 9) == ("…; 東京は晴れ. ", "Refund order", "-17!")
    assert excerpt(SAID, "gesp*", 4) == ("…ße” ", "gesperrt", "; 東京…")
    assert excerpt("short", "absent") == ("short", "", "")
