"""The trainer's side of the op log: take the next operation, and write down what came of it.

Every write is fenced by the lease token. An operation that was superseded while it ran completes as Superseded.
Each step is one statement, so that it costs one round trip, and no transaction is open in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.errors import ForeignKeyViolation
from psycopg.types.json import Jsonb

from store.blob_stores import BlobStore
from store.database import Connection
from store.notify import ADAPTERS_CHANGED, OPERATION_DONE
from store.oplog import statements
from store.oplog.append import INLINE_BYTES
from store.oplog.leases import lease_lost
from store.oplog.operation import ModelState, Operation
from store.tables import OperationRow
from wire.datum_payload import picture_names
from wire.errors import UNTIL_MENDED, CorruptCheckpoint, HeadwayError, Superseded, Unavailable
from wire.process.faults import fault_point


@dataclass(frozen=True, slots=True)
class Lease:
    """A model held by this trainer."""

    model_id: UUID
    token: int


def start_next(connection: Connection, lease: Lease) -> tuple[Operation, ModelState] | None:
    """Mark the model's next open operation as running under this lease. Raises LeaseLost.

    With an optim_step, the gradients before it that nobody acknowledged are superseded in the same transaction.
    """
    fault_point("take:before-commit")
    values = {"model_id": lease.model_id, "token": lease.token, "channel": OPERATION_DONE}
    (row,) = connection.execute(statements.START_NEXT.encode(), values)
    fault_point("take:after-commit")
    if row.held is None:
        raise lease_lost(lease.model_id)
    if row.id is None:
        return None
    operation = Operation(
        row.id,
        row.model_id,
        row.sequence,
        row.kind,
        row.payload,
        row.payload_blob,
        row.forward_id,
        row.attempts,
        row.faults,
        pictures=row.pictures,
    )
    model = ModelState(
        row.model_id,
        row.slug,
        row.base_id,
        row.lora or {},
        row.head_checkpoint_id,
        row.head_version,
        row.head_step,
        row.head_is_thinned,
    )
    return operation, model


def pending_gradients(connection: Connection, model_id: UUID) -> list[Operation]:
    """Gradient operations that are done and that no step has consumed, in order."""
    return [Operation(*row) for row in connection.execute(statements.PENDING, {"model_id": model_id})]


def gradients_of_step(connection: Connection, step: Operation) -> tuple[dict[UUID, dict[str, Any]], int]:
    """The gradient operations that this step consumes by id, in order, and what they left for its checkpoint; and how
    many since the last step it leaves out, since nobody had their answer."""
    values = {"model_id": step.model_id, "sequence": step.sequence}
    rows = connection.execute(statements.GRADIENTS_OF_STEP, values).fetchall()
    return {row.id: row.summary for row in rows if row.id is not None}, rows[0].num_left_out


def read_payload(operation: Operation | OperationRow, blobs: BlobStore) -> bytes:
    """An operation's payload, from wherever it lies. Raises CorruptCheckpoint for a blob that is missing or was
    altered, and for a payload with other pictures than were logged with it."""
    payload = operation.payload
    if payload is None:
        assert operation.payload_blob is not None
        payload = blobs.get(operation.payload_blob)
    if operation.pictures is not None and picture_names(payload) != sorted(operation.pictures):
        raise CorruptCheckpoint(f"the payload of operation {operation.id} has other pictures than were logged with it")
    return payload


def place_result(blobs: BlobStore, result: bytes) -> dict[str, Any]:
    """Keep a small result for the row, make a large one a durable blob. Blocks on the disk."""
    return {"result": result} if len(result) <= INLINE_BYTES else {"result_blob": blobs.put(result)}


def complete(
    connection: Connection,
    lease: Lease,
    operation: Operation,
    placed_result: Mapping[str, Any],
    summary: Mapping[str, Any] | None = None,
    plan: bytes | None = None,
) -> None:
    """The operation is done, by this plan. Raises Superseded or LeaseLost, and then nothing was written."""
    fault_point("complete:before-commit")
    _finish(
        connection,
        lease,
        operation,
        state="done",
        summary=Jsonb(summary) if summary is not None else None,
        plan=plan,
        **placed_result,
    )
    fault_point("complete:after-commit")


def fail(connection: Connection, lease: Lease, operation: Operation, error: HeadwayError) -> None:
    """The operation ends in this error, which `store.oplog.deferring` says; nothing of it stays. Raises Superseded or
    LeaseLost."""
    assert error.tries is not UNTIL_MENDED, f"{error.code} is a trouble that passes, and no end"
    fault_point("fail:before-commit")
    _finish(connection, lease, operation, state="failed", error_code=error.code, error_message=error.message)
    fault_point("fail:after-commit")


def stage_checkpoint(
    connection: Connection, lease: Lease, operation: Operation, model: ModelState, values: dict[str, Any]
) -> None:
    """Write down a checkpoint whose files are complete, so that samplers load it before the head moves there.

    `values` are the columns that the model, the step and the status do not decide. A crash of PostgreSQL may take it
    back until the head has moved. Raises LeaseLost.
    """
    wake = {"channel": ADAPTERS_CHANGED, "key": model.base_id.hex}
    held = {"model_id": lease.model_id, "token": lease.token}
    node = {**node_of_step(operation, model, values), "manifest": Jsonb(values["manifest"])}
    fault_point("stage:before-commit")
    if connection.execute(statements.STAGE.encode(), {**node, **held, **wake}).fetchone() is None:
        raise lease_lost(lease.model_id)
    fault_point("stage:after-commit")


def node_of_step(operation: Operation, model: ModelState, values: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of the node that this step makes on top of the model's head."""
    step = model.head_step + 1
    name = f"{step:04d}-{values['id'].hex[:8]}"
    parent = {"parent_id": model.head_checkpoint_id, "step": step, "name": name, "operation_id": operation.id}
    return {**values, **parent, "metrics": Jsonb(values["metrics"])}


def reject_checkpoint(connection: Connection, checkpoint_id: UUID) -> None:
    """A staged checkpoint will never be committed; samplers may forget it."""
    connection.execute(statements.REJECT, {"id": checkpoint_id})


def commit_step(
    connection: Connection,
    lease: Lease,
    operation: Operation,
    model: ModelState,
    checkpoint_id: UUID,
    result: bytes,
    plan: bytes | None = None,
) -> None:
    """The one transaction of a step: checkpoint committed, gradients consumed, operation done, head moved.

    Raises Superseded when the head moved since the operation started, LeaseLost when the model was lost, Unavailable
    when PostgreSQL has crashed and lost the staged checkpoint, and then nothing was written.
    """
    values = {
        "model_id": lease.model_id,
        "token": lease.token,
        "operation_id": operation.id,
        "checkpoint_id": checkpoint_id,
        "head_version": model.head_version,
        "result": result,
        "plan": plan,
        "channel": OPERATION_DONE,
        "key": operation.id.hex,
    }
    fault_point("step:before-commit")
    with connection.transaction():  # undone by what is raised: the head may have moved before the rest was refused
        try:
            (row,) = connection.execute(statements.COMMIT.encode(), values)
        except ForeignKeyViolation:
            raise Unavailable("PostgreSQL restarted and lost the new checkpoint; the step is made again") from None
        if row.held is None:
            raise lease_lost(lease.model_id)
        if row.finished is None:
            raise Superseded("the head was moved while this step was being computed; nothing was applied")
        assert row.committed is not None, "under the lease nobody else rejects or commits a staged checkpoint"
    fault_point("step:after-commit")


_NOTHING = dict.fromkeys(("result", "result_blob", "summary", "plan", "error_code", "error_message"))


def _finish(connection: Connection, lease: Lease, operation: Operation, **values: Any) -> None:
    held = {"model_id": lease.model_id, "token": lease.token}
    wake = {"channel": OPERATION_DONE, "key": operation.id.hex}
    (row,) = connection.execute(statements.FINISH, {**_NOTHING, **values, "id": operation.id, **held, **wake})
    if row.held is None:
        raise lease_lost(lease.model_id)
    if row.finished is None:
        raise Superseded("the head was moved while this operation ran; nothing of it was kept")
