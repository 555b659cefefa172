"""Nodes of the tree without files: made by steps that promote nothing, computed again when they are needed.

Such a node is its step's operation, the gradients that the step consumed, and the nearest node above it that has files
(or the seeded start): all of it is in the log, with the plans by which it was computed. Files may follow later, from
whoever has the node's weights in memory.
"""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from store.database import Connection
from store.notify import OPERATION_DONE
from store.operation_kinds import GRADIENTS, is_any
from store.oplog.leases import lease_lost
from store.oplog.operation import ModelState, Operation
from store.oplog.statements import HELD, NODE_COLUMNS, NODE_VALUES, STEP_CONSUMED, STEP_FINISHED
from store.oplog.work import Lease, node_of_step
from wire.errors import Superseded
from wire.process.faults import fault_point

# What the model's name stood for stays what it stands for.
_COMMIT = f"""
    with {HELD}, moved as (
        update models
        set head_checkpoint_id = %(id)s, head_version = head_version + 1, serves_head = false,
            served_checkpoint_id = case when serves_head then head_checkpoint_id else served_checkpoint_id end
        where id = (select model_id from held) and head_version = %(head_version)s
        returning id
    ), {STEP_FINISHED}, committed as (
        insert into checkpoints ({NODE_COLUMNS}, status, committed_at, manifest, is_saved)
        select {NODE_VALUES}, 'committed', clock_timestamp(), '{{}}', false from finished
    ), {STEP_CONSUMED}
    select held.model_id as held, finished.id as finished, pg_notify(%(channel)s, %(key)s)
    from (select) as always left join held on true left join finished on true
"""

# Under the lease alone: files of a trainer that lost it may be of another attempt's bits.
_MARK_SAVED = f"""
    with {HELD}, saved as (
        update checkpoints set is_saved = true, manifest = %(manifest)s
        where id = %(checkpoint_id)s and status = 'committed' and not is_saved and files_removed_at is null
            and model_id = (select model_id from held)
        returning id
    )
    select held.model_id as held, saved.id as saved
    from (select) as always left join held on true left join saved on true
"""

_CHAIN = """
    with recursive chain as (
        select c.*, 0 as depth from checkpoints c where c.id = %(checkpoint_id)s
        union all
        select p.*, chain.depth + 1 from chain join checkpoints p on p.id = chain.parent_id where not chain.is_saved
    )
    select id, name, step, is_saved, operation_id, files_id, files_model_id, state_removed_at, files_removed_at
    from chain order by depth desc
"""

_OPERATION = """
    id, model_id, sequence, kind, payload, payload_blob, forward_id, attempts, faults, plan,
    case when plan is null then summary -> 'metrics' end as metrics, pictures
"""

_STEP = f"select {_OPERATION} from operations where id = %(id)s"

_CONSUMED = f"""
    select {_OPERATION} from operations o
    where o.model_id = %(model_id)s and o.consumed_by_id = %(id)s and {is_any("o.kind", GRADIENTS)}
        and o.sequence < %(sequence)s
    order by o.sequence
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A checkpoint row as far as it decides how its weights come into memory."""

    id: UUID
    name: str
    step: int
    is_saved: bool
    operation_id: UUID | None
    files_id: UUID
    files_model_id: UUID
    state_is_removed: bool
    files_are_removed: bool


def commit_unpromoted_step(
    connection: Connection,
    lease: Lease,
    operation: Operation,
    model: ModelState,
    values: Mapping[str, Any],
    result: bytes,
    plan: bytes,
) -> None:
    """The one transaction of a step without files: node made, gradients consumed, operation done, head moved.

    `values`: columns of the node, its id among them. Raises as `store.oplog.work.commit_step`.
    """
    node = node_of_step(operation, model, values)
    about = {
        "token": lease.token,
        "model_id": lease.model_id,
        "head_version": model.head_version,
        "result": result,
        "plan": plan,
        "channel": OPERATION_DONE,
        "key": operation.id.hex,
    }
    fault_point("node:before-commit")
    with connection.transaction():
        (row,) = connection.execute(_COMMIT.encode(), {**node, **about})
        if row.held is None:
            raise lease_lost(lease.model_id)
        if row.finished is None:
            raise Superseded("the head was moved while this step was being computed; nothing was applied")
    fault_point("node:after-commit")


def mark_saved(connection: Connection, lease: Lease, checkpoint_id: UUID, manifest: Mapping[str, Any]) -> bool:
    """A node's files are in the store, durably. False where it is saved already, or is not kept any longer.

    Raises LeaseLost.
    """
    values = {
        "model_id": lease.model_id,
        "token": lease.token,
        "checkpoint_id": checkpoint_id,
        "manifest": Jsonb(manifest),
    }
    fault_point("saved:before-commit")
    (row,) = connection.execute(_MARK_SAVED.encode(), values)
    fault_point("saved:after-commit")
    if row.held is None:
        raise lease_lost(lease.model_id)
    return row.saved is not None


def chain_to(connection: Connection, checkpoint_id: UUID) -> list[Node]:
    """The node, and before it those above it down from the nearest that is saved; from a model's first step where none
    is."""
    rows = connection.execute(_CHAIN, {"checkpoint_id": checkpoint_id})
    return [
        Node(
            *row[:-2],
            state_is_removed=row.state_removed_at is not None,
            files_are_removed=row.files_removed_at is not None,
        )
        for row in rows
    ]


def step_and_gradients(connection: Connection, operation_id: UUID) -> tuple[Operation, list[Operation]]:
    """The step that made a node, and the gradients that it consumed, in their order."""
    (step,) = [Operation(*row) for row in connection.execute(_STEP.encode(), {"id": operation_id})]
    values = {"model_id": step.model_id, "id": step.id, "sequence": step.sequence}
    return step, [Operation(*row) for row in connection.execute(_CONSUMED.encode(), values)]
