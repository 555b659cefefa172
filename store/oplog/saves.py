"""The trainer's side of a save: the node that it is about, and the one transaction that gives it its name."""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from store.database import Connection
from store.notify import ADAPTERS_CHANGED
from store.oplog.leases import lease_lost
from store.oplog.operation import ModelState, Operation
from store.oplog.statements import HELD, NODE_COLUMNS, NODE_VALUES
from store.oplog.work import Lease, complete
from wire.errors import NameTaken, NotFound, Superseded
from wire.payload import encode
from wire.process.faults import fault_point
from wire.saves import SaveRequest, Use

_FACTS = """
    select id, name, files_id, is_saved, manifest, files_removed_at is not null as files_are_removed
    from checkpoints where id = %(checkpoint_id)s and model_id = %(model_id)s and status = 'committed'
"""

# Weights and moments are those of the start: what was accumulated goes on counting.
_ADD_ROOT = f"""
    with {HELD}, moved as (
        update models set head_checkpoint_id = %(id)s, head_version = head_version + 1
        where id = (select model_id from held) and head_checkpoint_id is null and head_version = %(head_version)s
        returning id
    ), rooted as (
        insert into checkpoints ({NODE_COLUMNS}, status, committed_at, manifest)
        select {NODE_VALUES}, 'committed', clock_timestamp(), %(manifest)s from moved
        returning id
    )
    select held.model_id as held, rooted.id as rooted
    from (select) as always left join held on true left join rooted on true
"""

_IS_TAKEN = """
    select from checkpoint_names
    where model_id = %(model_id)s and kind = %(kind)s and name = %(name)s
        and (expires_at is null or expires_at > clock_timestamp())
"""

_LOCK = """
    with held as (
        select model_id from model_leases where model_id = %(model_id)s and token = %(token)s for update
    )
    select id from models where id = (select model_id from held) for no key update
"""

_NAME = """
    insert into checkpoint_names as n (
        id, model_id, kind, name, checkpoint_id, size_bytes, user_metadata, created_at, expires_at
    ) values (
        %(id)s, %(model_id)s, %(kind)s, %(name)s, %(checkpoint_id)s, %(size_bytes)s, %(user_metadata)s,
        clock_timestamp(), clock_timestamp() + make_interval(secs => %(ttl_seconds)s)
    )
    on conflict (model_id, kind, name) do update set
        id = excluded.id, checkpoint_id = excluded.checkpoint_id, size_bytes = excluded.size_bytes,
        user_metadata = excluded.user_metadata, created_at = excluded.created_at, expires_at = excluded.expires_at,
        published_at = null
    where %(overwrite)s or n.expires_at <= clock_timestamp()
    returning n.id
"""

# A model whose name stands for its head goes on to do so.
_SERVE = """
    with served as (
        update models set served_checkpoint_id = %(checkpoint_id)s
        where id = %(model_id)s and not serves_head returning base_id
    )
    select pg_notify(%(channel)s, replace(base_id::text, '-', '')) from served
"""

_OPEN_SESSION = """
    insert into sampling_sessions as s (id, session_id, session_index, team_id, kind, model_id, checkpoint_id)
    select %(id)s, %(session_id)s, %(session_index)s, m.team_id, %(kind)s, m.id, %(checkpoint_id)s
    from models m where m.id = %(model_id)s
    on conflict (id) do update set checkpoint_id = excluded.checkpoint_id, kind = excluded.kind
    where s.model_id = excluded.model_id
    returning s.id
"""

_MOVE_IN_FLIGHT = """
    update sampling_sessions set checkpoint_id = %(checkpoint_id)s where model_id = %(model_id)s and kind = 'inflight'
"""

_WANT = """
    with wanted as (
        insert into adapter_wants as w (checkpoint_id, until)
        values (%(checkpoint_id)s, clock_timestamp() + make_interval(secs => %(for_s)s))
        on conflict (checkpoint_id) do update set until = greatest(w.until, excluded.until)
    )
    select pg_notify(%(channel)s, %(key)s)
"""


@dataclass(frozen=True, slots=True)
class SavedNode:
    """A committed node of the tree as a save sees it. `sizes`: bytes of each file, none before it has files."""

    id: UUID
    name: str
    files_id: UUID
    is_saved: bool
    sizes: Mapping[str, int]
    files_are_removed: bool

    def num_bytes(self, use: Use) -> int:
        """Of the files that this use needs: without the moments where nobody trains on."""
        wanted = "" if use in (Use.TRAINING, Use.FILES) else "adapter/"
        return sum(size for path, size in self.sizes.items() if path.startswith(wanted))


def node_to_save(connection: Connection, model_id: UUID, checkpoint_id: UUID) -> SavedNode:
    """Raises NotFound where the model has no such node."""
    values = {"model_id": model_id, "checkpoint_id": checkpoint_id}
    row = connection.execute(_FACTS, values).fetchone()
    if row is None:
        raise NotFound("this model has no such checkpoint")
    sizes = {path: int(facts["size"]) for path, facts in row.manifest.get("files", {}).items()}
    return SavedNode(row.id, row.name, row.files_id, row.is_saved, sizes, row.files_are_removed)


def add_root(
    connection: Connection,
    lease: Lease,
    operation: Operation,
    model: ModelState,
    checkpoint_id: UUID,
    manifest: Mapping[str, Any],
) -> None:
    """The start becomes a node of its own, step 0, and the head of a model that has none; its files are in the store.

    Raises Superseded where the head has moved meanwhile, LeaseLost.
    """
    values = {
        "model_id": lease.model_id,
        "token": lease.token,
        "head_version": model.head_version,
        "id": checkpoint_id,
        "parent_id": None,
        "step": 0,
        "name": f"0000-{checkpoint_id.hex[:8]}",
        "operation_id": operation.id,
        "manifest": Jsonb(manifest),
        "metrics": Jsonb({}),
        **dict.fromkeys(("num_traces", "num_datums", "num_tokens", "mean_reward", "learning_rate", "loss_fn")),
    }
    fault_point("root:before-commit")
    (row,) = connection.execute(_ADD_ROOT.encode(), values)
    fault_point("root:after-commit")
    if row.held is None:
        raise lease_lost(lease.model_id)
    if row.rooted is None:
        raise Superseded("the head was moved while it was saved; save again")


def want_adapter(connection: Connection, base_id: UUID, checkpoint_id: UUID, for_s: float) -> None:
    """Have every sampler of the base hold the node for a while."""
    wake = {"channel": ADAPTERS_CHANGED, "key": base_id.hex}
    connection.execute(_WANT, {"checkpoint_id": checkpoint_id, "for_s": for_s, **wake})


def require_free_name(connection: Connection, model_id: UUID, request: SaveRequest) -> None:
    """Raises NameTaken for a name that is used and shall not be overwritten."""
    if request.name is None or request.overwrite:
        return
    values = {"model_id": model_id, "kind": request.use.value, "name": request.name}
    if connection.execute(_IS_TAKEN, values).fetchone() is not None:
        raise name_taken(request)


def complete_save(
    connection: Connection, lease: Lease, operation: Operation, node: SavedNode, request: SaveRequest
) -> None:
    """The one transaction of a save: name or sampling session, what the model's name stands for, operation done.

    Raises NameTaken, Superseded, LeaseLost; then nothing was written.
    """
    about = {"model_id": lease.model_id, "token": lease.token, "checkpoint_id": node.id}
    with connection.transaction():
        if connection.execute(_LOCK, about).fetchone() is None:
            raise lease_lost(lease.model_id)
        if request.use.is_named:
            _name(connection, about, node, request)
        if request.use is Use.INFLIGHT:
            connection.execute(_MOVE_IN_FLIGHT, about)
        if request.sampling_session is not None:
            session = request.sampling_session
            opened = {"id": session.id, "session_id": session.session_id, "session_index": session.index}
            connection.execute(_OPEN_SESSION, {**about, **opened, "kind": request.use.value})
        complete(connection, lease, operation, {"result": encode(_answer(node, request))})


def _name(connection: Connection, about: Mapping[str, Any], node: SavedNode, request: SaveRequest) -> None:
    values = {
        **about,
        "id": uuid.uuid4(),
        "kind": request.use.value,
        "name": request.name,
        "size_bytes": node.num_bytes(request.use),
        "user_metadata": Jsonb(request.user_metadata) if request.user_metadata is not None else None,
        "ttl_seconds": request.ttl_seconds,
        "overwrite": request.overwrite,
    }
    if connection.execute(_NAME, values).fetchone() is None:
        raise name_taken(request)
    if request.use is Use.SAMPLER:
        connection.execute(_SERVE, {**about, "channel": ADAPTERS_CHANGED})


def _answer(node: SavedNode, request: SaveRequest) -> dict[str, Any]:
    session = request.sampling_session
    return {
        "use": request.use.value,
        "checkpoint_id": str(node.id),
        "checkpoint": node.name,
        "name": request.name,
        "size_bytes": node.num_bytes(request.use),
        "sampling_session_id": session.id if session else None,
    }


def name_taken(request: SaveRequest) -> NameTaken:
    """The refusal of a name that is used."""
    return NameTaken(
        f"this model has a {request.use.value} checkpoint named {request.name!r} already; choose another name, or save "
        "with overwrite"
    )
