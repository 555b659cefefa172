"""What nodes without files are computed from is kept as long as they are; answers, as long as their client is there."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, update

from store.invariants import check_all
from store.retention.pins import pin
from store.tables import CheckpointRow, ClientSessionRow, ModelRow, OperationRow
from store.verification import missing_files
from tests.unit.store.conftest import DAY_S, Estate


def unsaved_step(estate: Estate) -> tuple[UUID, UUID]:
    """A node without files as the head, and its gradient, whose payload is a blob."""
    blob = estate.blobs.put(uuid.uuid4().bytes)
    done = {"state": "done", "result": b"x", "plan": b"p"}
    gradient = estate.operation("forward_backward", summary={}, payload_blob=blob, **done)
    step = estate.operation("unpromoted_step", **done)
    node_id = uuid.uuid4()
    with estate.database.session() as session:
        model = session.get_one(ModelRow, estate.world.model_id)
        parent = session.get(CheckpointRow, model.head_checkpoint_id) if model.head_checkpoint_id else None
        number = parent.step + 1 if parent else 1
        session.get_one(OperationRow, gradient).consumed_by_id = step
        session.add(
            CheckpointRow(
                id=node_id,
                model_id=model.id,
                parent_id=parent.id if parent else None,
                files_id=node_id,
                files_model_id=model.id,
                step=number,
                name=f"{number:04d}-{node_id.hex[:8]}",
                status="committed",
                manifest={},
                metrics={},
                committed_at=func.clock_timestamp(),
                is_saved=False,
                operation_id=step,
            )
        )
        session.flush()
        model.head_checkpoint_id, model.serves_head = node_id, False
        model.head_version += 1
    return node_id, gradient


def age(estate: Estate) -> None:
    estate.age_operations()
    estate.age_files()
    past = func.clock_timestamp() - timedelta(seconds=2 * DAY_S)
    with estate.database.session() as session:
        session.execute(update(CheckpointRow).values(committed_at=past))


def kept(estate: Estate, *gradients: UUID) -> list[bool]:
    with estate.database.session() as session:
        assert check_all(session) == []
        rows = [session.get_one(OperationRow, gradient) for gradient in gradients]
    there = {blob.name for blob in estate.blobs.stored()}
    assert [row.payload_blob in there for row in rows] == [row.blobs_dropped_at is None for row in rows]
    return [row.blobs_dropped_at is None for row in rows]


def given_up(estate: Estate, *nodes: UUID) -> list[bool]:
    return [estate.row(node).files_removed_at is not None for node in nodes]


def test_payloads_of_a_head_without_files_are_kept_down_to_the_last_files(estate: Estate):
    early = unsaved_step(estate)
    base = estate.step()
    late = [unsaved_step(estate) for _ in range(2)]
    age(estate)
    estate.collect(keep_last_states=1)
    assert given_up(estate, early[0], *(node for node, _ in late)) == [True, False, False]
    assert kept(estate, early[1], *(gradient for _, gradient in late)) == [False, True, True]
    assert base in estate.with_state(), "the moments, from which the head is computed"
    assert missing_files(estate.database, estate.checkpoints) == []


def test_files_end_the_need_for_payloads(estate: Estate):
    nodes = [unsaved_step(estate) for _ in range(2)]
    age(estate)
    estate.collect()
    assert kept(estate, *(gradient for _, gradient in nodes)) == [True, True]
    head = nodes[1][0]
    with estate.database.session() as session:
        session.execute(
            update(CheckpointRow).where(CheckpointRow.id == head).values(is_saved=True, manifest=estate.publish(head))
        )
    estate.collect()
    assert given_up(estate, *(node for node, _ in nodes)) == [True, False]
    assert kept(estate, *(gradient for _, gradient in nodes)) == [False, False]
    assert estate.with_files() == {head}


@pytest.mark.parametrize("is_pinned", [False, True])
def test_a_branch_without_files_is_given_up_unless_it_is_new_or_pinned(estate: Estate, is_pinned: bool):
    root = estate.step()
    branch = [unsaved_step(estate) for _ in range(2)]
    estate.set_head(root)
    estate.collect()
    assert given_up(estate, *(node for node, _ in branch)) == [False, False]
    if is_pinned:
        with estate.database.session() as session:
            pin(session, str(estate.world.model_id), str(branch[0][0]), pinned=True)
    age(estate)
    estate.collect()
    assert given_up(estate, *(node for node, _ in branch)) == [not is_pinned, True]
    assert kept(estate, *(gradient for _, gradient in branch)) == [is_pinned, False]


@pytest.mark.parametrize(
    ("session", "answered", "is_kept"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"finished_at": func.clock_timestamp()}, False, False),
        ({"heartbeat_at": func.clock_timestamp() - timedelta(days=2)}, False, False),
    ],
    ids=["not fetched", "fetched", "finished", "silent"],
)
def test_an_answer_is_kept_until_it_was_fetched_or_its_client_is_gone(
    estate: Estate, session: dict[str, Any], answered: bool, is_kept: bool
):
    with estate.database.session() as rows:
        rows.add(ClientSessionRow(id="s", team_id=estate.world.team_id, **session))
        rows.flush()
        model = rows.get_one(ModelRow, estate.world.model_id)
        model.session_id, model.session_index = "s", 0
    at = func.clock_timestamp() if answered else None
    blob = estate.blobs.put(b"logprobs")
    result = {"state": "done", "result_blob": blob, "answered_at": at}
    forward = estate.operation("forward", client_sequence=1, head_version=-1, **result)
    with estate.database.session() as rows:
        rows.get_one(ModelRow, estate.world.model_id).next_client_sequence = 2
    age(estate)
    estate.collect()
    with estate.database.session() as rows:
        assert (rows.get_one(OperationRow, forward).blobs_dropped_at is None) == is_kept
