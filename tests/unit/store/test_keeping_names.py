"""What names keep, and what becomes of runs of which nothing was saved."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, update

from store.invariants import check_all
from store.invariants.tree import TREE
from store.tables import CheckpointNameRow, CheckpointRow, ClientSessionRow, ModelRow, OperationRow
from tests.unit.store.conftest import DAY_S, Estate


@pytest.fixture
def place_kind() -> str:
    return "file"


def name(estate: Estate, checkpoint_id: UUID, kind: str = "training", **values: Any) -> None:
    row = {"model_id": estate.world.model_id, "checkpoint_id": checkpoint_id, "kind": kind, "name": "final"}
    with estate.database.session() as session:
        session.add(CheckpointNameRow(size_bytes=1, **row, **values))


def make_run(estate: Estate, *, ago: timedelta = timedelta(days=8)) -> None:
    """The model is one that a client made, whose session ended so long ago."""
    with estate.database.session() as session:
        then = func.clock_timestamp() - ago
        about = {"created_at": then, "heartbeat_at": then, "finished_at": then}
        session.add(ClientSessionRow(id="s", team_id=estate.world.team_id, **about))
        session.flush()
        of_run = {"session_id": "s", "session_index": 0, "serves_head": False, "created_at": then}
        session.execute(update(ModelRow).where(ModelRow.id == estate.world.model_id).values(of_run))
        session.execute(update(OperationRow).values(created_at=then, finished_at=then))


def is_removed(estate: Estate) -> bool:
    with estate.database.session() as session:
        return session.get_one(ModelRow, estate.world.model_id).removed_at is not None


def test_a_training_name_keeps_the_state_and_others_the_adapter(estate: Estate):
    nodes = estate.steps(4)
    name(estate, nodes[0])
    name(estate, nodes[1], "sampler")
    estate.collect(keep_last_states=1, keep_last_adapters=1)
    assert estate.with_state() == {nodes[0], nodes[3]}
    assert estate.with_files() == {nodes[0], nodes[1], nodes[3]}


def test_an_expired_name_keeps_nothing_and_is_removed(estate: Estate):
    nodes = estate.steps(2)
    with estate.database.session() as session:
        past = session.scalar(func.clock_timestamp())
    name(estate, nodes[0], expires_at=past)
    listed = estate.collect(dry_run=True, keep_last_states=1, keep_last_adapters=1)
    removed = estate.collect(keep_last_states=1, keep_last_adapters=1)
    assert [(r.what, r.name) for r in listed] == [(r.what, r.name) for r in removed]
    assert {r.what for r in removed} == {"name of a checkpoint", "checkpoint"}
    assert estate.with_files() == {nodes[1]}


def test_what_a_slug_stands_for_is_kept(estate: Estate):
    nodes = estate.steps(3)
    with estate.database.session() as session:
        session.get_one(ModelRow, estate.world.model_id).served_checkpoint_id = nodes[0]
    estate.collect(keep_last_states=1, keep_last_adapters=1)
    assert estate.with_files() == {nodes[0], nodes[2]}


def test_a_run_that_saved_nothing_is_removed_with_its_files_and_payloads(estate: Estate):
    estate.steps(2)
    estate.operation("forward_backward", state="done", payload_blob=estate.blobs.put(b"payload"), result=b"x")
    make_run(estate)
    estate.age_files()
    removed = estate.collect(keep_payloads_s=0)
    assert {r.what for r in removed} >= {"run that saved nothing", "checkpoint", "blob"}
    assert estate.with_files() == set()
    assert is_removed(estate)
    with estate.database.session() as session:
        assert [v.name for v in check_all(session) if v.name in {i.name for i in TREE}] == []
        assert session.get_one(ModelRow, estate.world.model_id).slug == str(estate.world.model_id)


@pytest.mark.parametrize("why", ["named", "young", "called", "waiting", "forked", "pinned", "served"])
def test_other_runs_stay(estate: Estate, why: str):
    (node,) = estate.steps(1)
    make_run(estate, ago=timedelta(days=6) if why == "young" else timedelta(days=8))
    if why == "named":
        name(estate, node)
    if why == "called":
        estate.operation("forward_backward", state="failed")
    if why == "waiting":
        estate.operation("forward_backward", state="queued")
    if why == "forked":
        estate.fork(node)
    with estate.database.session() as session:
        if why == "pinned":
            session.get_one(CheckpointRow, node).pinned_at = func.clock_timestamp()
        if why == "served":
            session.get_one(ModelRow, estate.world.model_id).served_checkpoint_id = node
    assert estate.collect(keep_unsaved_runs_s=7 * DAY_S) == []
    assert not is_removed(estate)
