from __future__ import annotations

import dataclasses

import pytest

from store.catalog import base_by_slug, describe_base, ensure_base
from store.database import Database
from store.tables import ModelRow, TeamRow
from wire.engine import BaseModelInfo
from wire.errors import NotFound

INFO = BaseModelInfo(89, 64, "Qwen3ForCausalLM", "float32", 1000, fingerprint="a")


def fork(database: Database, base_id) -> None:
    with database.session() as session:
        team = TeamRow(name="reds")
        session.add(team)
        session.flush()
        session.add(ModelRow(team_id=team.id, base_id=base_id, slug="fork", name="fork"))


def test_a_base_is_registered_once_and_found_by_slug(database: Database):
    with database.session() as session:
        ids = {ensure_base(session, "Tiny", "/weights") for _ in range(2)}
        assert {base_by_slug(session, "tiny").id} == ids
        with pytest.raises(NotFound, match="registered: Tiny"):
            base_by_slug(session, "other")


def test_a_slug_moves_to_other_weights_only_while_nothing_was_forked(database: Database):
    with database.session() as session:
        base_id = ensure_base(session, "tiny", "/weights")
        assert ensure_base(session, "tiny", "/better") == base_id
    fork(database, base_id)
    with database.session() as session, pytest.raises(ValueError, match="1 models were forked"):
        ensure_base(session, "tiny", "/best")


def test_other_weights_under_the_same_path_are_refused_once_models_were_forked(database: Database):
    changed = dataclasses.replace(INFO, fingerprint="b")
    with database.session() as session:
        base_id = ensure_base(session, "tiny", "/weights")
        describe_base(session, base_id, INFO)
        describe_base(session, base_id, changed)
    fork(database, base_id)
    with database.session() as session:
        describe_base(session, base_id, changed)
        with pytest.raises(ValueError, match="not those that the models of base 'tiny' were forked from"):
            describe_base(session, base_id, INFO)
