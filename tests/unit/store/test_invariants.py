from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from sqlalchemy import func, insert, text, update

from store.invariants import INVARIANTS, check_all, check_blobs, check_files
from store.planes.registration import register_sampler
from store.tables import CheckpointNameRow, CheckpointRow, ModelLeaseRow, ModelRow, OperationRow, SamplerAdapterRow
from tests.unit.store.conftest import Estate


def broken(estate: Estate) -> list[str]:
    with estate.database.session() as session:
        return [violation.name for violation in check_all(session)]


def change(estate: Estate, row: type, where, **values) -> None:
    with estate.database.session() as session:
        session.execute(update(row).where(where).values(**values))


def busy(estate: Estate) -> None:
    """A service in the middle of everything that is allowed."""
    nodes = estate.steps(3)
    estate.fork(nodes[1])
    estate.set_head(nodes[0])
    estate.step()
    token = estate.lease()
    used = estate.operation("forward", state="done", result=b"x")
    backward = estate.operation("backward", state="done", result=b"x", summary={}, forward_id=used)
    change(estate, OperationRow, OperationRow.id == used, consumed_by_id=backward)
    estate.operation("forward_backward", state="failed", error_code="invalid_request")
    estate.operation("forward_backward", state="superseded")
    running = {"state": "running", "lease_token": token, "started_at": func.clock_timestamp()}
    estate.operation("optim_step", **running)
    estate.operation("forward_backward")
    with estate.database.session() as session:
        node = session.get_one(ModelRow, estate.world.model_id).head_checkpoint_id
    add_row(estate, "staged", parent=node, step=3)
    add_row(estate, "rejected", parent=node, step=3)
    with estate.database.session() as session:
        sampler = register_sampler(session, estate.world.base_id, "http://127.0.0.1:1", "local")
        names = (f"hw-{nodes[0].hex}", f"hw-base-{estate.world.base_id.hex}")
        session.add_all(SamplerAdapterRow(sampler_id=sampler, adapter=name, state="loaded") for name in names)


def add_row(estate: Estate, status: str, parent: uuid.UUID | None = None, step: int = 1) -> uuid.UUID:
    checkpoint_id = uuid.uuid4()
    with estate.database.session() as session:
        session.execute(
            insert(CheckpointRow).values(
                id=checkpoint_id,
                model_id=estate.world.model_id,
                parent_id=parent,
                files_id=checkpoint_id,
                files_model_id=estate.world.model_id,
                step=step,
                name=checkpoint_id.hex,
                status=status,
                manifest={},
                metrics={},
            )
        )
    return checkpoint_id


def test_all_invariants_hold_of_an_empty_and_of_a_busy_service(estate: Estate):
    assert broken(estate) == []
    busy(estate)
    assert broken(estate) == []


def head_on_a_staged_checkpoint(estate: Estate) -> None:
    estate.lease()
    estate.set_head(add_row(estate, "rejected"))


def head_without_files(estate: Estate) -> None:
    change(estate, CheckpointRow, CheckpointRow.id == estate.step(), files_removed_at=func.clock_timestamp())


def step_that_skips(estate: Estate) -> None:
    change(estate, CheckpointRow, CheckpointRow.id == estate.steps(2)[1], step=3)


def root_out_of_nowhere(estate: Estate) -> None:
    change(estate, CheckpointRow, CheckpointRow.id == estate.step(), step=0)


def root_of_thinned_files(estate: Estate) -> None:
    node = estate.step()
    estate.fork(node)
    change(estate, CheckpointRow, CheckpointRow.id == node, state_removed_at=func.clock_timestamp())


def staged_of_nobody(estate: Estate) -> None:
    add_row(estate, "staged")


def head_that_moved_unseen(estate: Estate) -> None:
    estate.steps(2)
    change(estate, ModelRow, ModelRow.id == estate.world.model_id, head_version=1)


def named_without_files(estate: Estate) -> None:
    node, _ = estate.steps(2)
    name = {"model_id": estate.world.model_id, "kind": "sampler", "name": "final", "checkpoint_id": node}
    with estate.database.session() as session:
        session.add(CheckpointNameRow(size_bytes=1, **name))
    change(estate, CheckpointRow, CheckpointRow.id == node, files_removed_at=func.clock_timestamp())


def gap(estate: Estate) -> None:
    estate.steps(1)
    change(estate, ModelRow, ModelRow.id == estate.world.model_id, next_sequence=7)


def two_at_once(estate: Estate) -> None:
    token = estate.lease()
    for _ in range(2):
        estate.operation("forward", state="running", lease_token=token)


def running_under_an_old_lease(estate: Estate) -> None:
    token = estate.lease()
    estate.operation("forward", state="running", lease_token=token)
    change(estate, ModelLeaseRow, ModelLeaseRow.token == token, token=token + 1)


def trouble_as_an_end(estate: Estate) -> None:
    estate.operation("forward", state="failed", error_code="unavailable", request_digest=b"x")


def fault_that_was_tried_once(estate: Estate) -> None:
    estate.operation("forward", state="failed", error_code="internal", attempts=1, request_digest=b"x")


def put_off_without_a_reason(estate: Estate) -> None:
    estate.operation("forward", state="queued", retry_at=func.clock_timestamp())


def done_without_result(estate: Estate) -> None:
    estate.operation("forward", state="done")


def planned_before_it_ended(estate: Estate) -> None:
    estate.operation("forward", plan=b"x")


def superseded_and_consumed(estate: Estate) -> None:
    estate.step()
    change(estate, OperationRow, OperationRow.kind == "forward_backward", state="superseded")


def consumed_by_a_failed_step(estate: Estate) -> None:
    estate.step()
    change(estate, OperationRow, OperationRow.kind == "optim_step", state="failed", error_code="internal")


def forward_used_by_another_backward(estate: Estate) -> None:
    forward = estate.operation("forward", state="done", result=b"x")
    backward = estate.operation("backward", state="done", result=b"x", summary={})
    change(estate, OperationRow, OperationRow.id == forward, consumed_by_id=backward)


def gradient_left_behind(estate: Estate) -> None:
    estate.operation("forward_backward", state="done", summary={}, result=b"x")
    estate.step()


def step_of_nothing(estate: Estate) -> None:
    estate.operation("optim_step", state="done", result=b"x")


def step_applied_twice(estate: Estate) -> None:
    add_row(estate, "committed", parent=estate.step(), step=2)


def picture_of_nobody(estate: Estate):
    estate.operation("forward_backward", pictures=["0a" * 32])


def payload_given_up_too_early(estate: Estate) -> None:
    estate.operation("forward_backward", blobs_dropped_at=func.clock_timestamp())


def token_that_shrank(estate: Estate) -> None:
    token = estate.lease()
    estate.operation("forward", state="done", result=b"x", lease_token=token + 5)


def sampler_of_dreams(estate: Estate) -> None:
    with estate.database.session() as session:
        sampler = register_sampler(session, estate.world.base_id, "http://127.0.0.1:1", "local")
        session.add(SamplerAdapterRow(sampler_id=sampler, adapter=f"hw-{uuid.uuid4().hex}", state="loaded"))


def operation_of_a_base(estate: Estate) -> None:
    estate.operation("forward")
    change(estate, OperationRow, OperationRow.sequence == 1, model_id=estate.world.base_id)


def served_without_files(estate: Estate) -> None:
    change(estate, CheckpointRow, CheckpointRow.id == estate.step(), is_saved=False)


def nothing_to_compute_it_from(estate: Estate) -> None:
    nodes = estate.steps(2)
    estate.set_head(nodes[0])
    change(estate, CheckpointRow, CheckpointRow.id == nodes[1], is_saved=False)


def held_with_a_place(estate: Estate) -> None:
    estate.operation("forward", state="held", client_sequence=7)


def places_against_the_numbers(estate: Estate) -> None:
    for number in (2, 1):
        estate.operation("forward", client_sequence=number)
    change(estate, ModelRow, ModelRow.id == estate.world.model_id, next_client_sequence=3)


@pytest.mark.parametrize(
    ("harm", "name"),
    [
        (head_on_a_staged_checkpoint, "heads are committed"),
        (head_without_files, "heads are committed"),
        (operation_of_a_base, "bases have no tree"),
        (step_that_skips, "parents are of the same tree"),
        (root_out_of_nowhere, "roots begin somewhere"),
        (root_of_thinned_files, "files belong to a checkpoint"),
        (staged_of_nobody, "staged checkpoints are of a step under way"),
        (head_that_moved_unseen, "heads count their moves"),
        (named_without_files, "paths stand for what has files"),
        (served_without_files, "names stand for what has files"),
        (nothing_to_compute_it_from, "nodes have files or can be computed again"),
        (gap, "sequences have no gaps"),
        (held_with_a_place, "only a client's number stands for a place"),
        (places_against_the_numbers, "clients' numbers are worked off in order"),
        (two_at_once, "one operation runs at a time"),
        (running_under_an_old_lease, "running operations are leased"),
        (done_without_result, "ended operations have an outcome"),
        (planned_before_it_ended, "ended operations have an outcome"),
        (trouble_as_an_end, "operations end in what their request deserves"),
        (fault_that_was_tried_once, "operations end in what their request deserves"),
        (put_off_without_a_reason, "what is put off says why"),
        (superseded_and_consumed, "gradients are done before they count"),
        (consumed_by_a_failed_step, "gradients are consumed by a step behind them"),
        (forward_used_by_another_backward, "forwards are used by a backward behind them"),
        (gradient_left_behind, "steps consume all that was acknowledged"),
        (step_of_nothing, "steps have gradients"),
        (step_applied_twice, "a step is a checkpoint"),
        (payload_given_up_too_early, "what may be replayed keeps its payload"),
        (picture_of_nobody, "what is to be carried out keeps its pictures"),
        (token_that_shrank, "tokens only grow"),
        (sampler_of_dreams, "samplers hold what exists"),
    ],
)
def test_each_harm_is_found_and_named(estate: Estate, harm: Callable[[Estate], None], name: str):
    harm(estate)
    assert name in broken(estate)


def test_a_key_that_was_used_twice_is_found(estate: Estate):
    """The index forbids it; a restored or mended database may be without."""
    with estate.database.session() as session:
        session.execute(text("drop index uq_operations_idempotency_key"))
        try:
            with session.begin_nested():
                for sequence in (1, 2):
                    row = {"model_id": estate.world.model_id, "sequence": sequence, "kind": "forward", "payload": b""}
                    session.execute(insert(OperationRow).values(**row, head_version=0, idempotency_key="k"))
                session.execute(update(ModelRow).values(next_sequence=3).where(ModelRow.id == estate.world.model_id))
            names = [violation.name for violation in check_all(session)]
        finally:
            session.rollback()
    assert names == ["idempotency keys are used once"]


def test_violations_carry_the_sentence_and_the_rows(estate: Estate):
    done_without_result(estate)
    with estate.database.session() as session:
        (violation,) = check_all(session)
    assert violation.sentence.startswith("What is done has a result")
    assert [row["kind"] for row in violation.rows] == ["forward"]


def test_missing_files_are_found_when_asked_for(estate: Estate):
    checkpoint = estate.step()
    assert check_files(estate.database, estate.checkpoints) == []
    estate.path(checkpoint, "adapter/adapter_model.safetensors").unlink()
    (violation,) = check_files(estate.database, estate.checkpoints)
    assert [row["path"] for row in violation.rows] == ["adapter/adapter_model.safetensors"]


def test_missing_blobs_are_found_when_asked_for(estate: Estate):
    kept, emptied, lost = map(estate.blobs.put, (b"kept", b"emptied", b"lost"))
    for name in (kept, emptied, lost, estate.blobs.put(b"")):
        estate.operation("forward_backward", payload_blob=name)
    assert check_blobs(estate.database, estate.blobs) == []
    estate.blob_place.path(emptied).write_bytes(b"")
    estate.blob_place.path(lost).unlink()
    (violation,) = check_blobs(estate.database, estate.blobs)
    assert {row["path"]: row["what"] for row in violation.rows} == {emptied: "changed", lost: "missing"}


def test_every_invariant_is_a_name_a_sentence_and_a_query():
    assert len({invariant.name for invariant in INVARIANTS}) == len(INVARIANTS)
    for invariant in INVARIANTS:
        assert invariant.sentence.endswith(".")
        assert invariant.violations.strip().startswith("select")
