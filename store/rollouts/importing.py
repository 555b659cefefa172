"""Inserts a rollout from elsewhere as a recorded one: in one transaction, and once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from store.blob_stores import BlobStore
from store.database import AsyncConnection, AsyncDatabase
from store.rollouts.comments import ImportedComment, add_comments
from store.rollouts.digests import sample_digest
from store.rollouts.payloads import pack_payload
from store.rollouts.recording import TraceRecord, record
from store.rollouts.resolving import Resolved, resolve
from store.rollouts.samples import NewSample, Served
from store.rollouts.spans import STEP_SCHEMA, NewSpan
from wire.errors import Conflict
from wire.trajectories import Turn

IMPORTED = "imported"
"""Flag of traces that came as a file."""

Outcome = Literal["imported", "unchanged", "rescored"]

OnChange = Callable[[AsyncConnection, Outcome], Awaitable[None]]
"""Writes down, in the transaction of the connection, what becomes of a rollout."""

_FACTS = (
    "job_id",
    "group_id",
    "parent_trace_id",
    "task_slug",
    "model",
    "model_id",
    "status",
    "reward",
    "error",
    "stop_reason",
    "evaluation_result",
    "extra",
    "entered_at",
    "exited_at",
    "timed_out_at",
    "labels",
)
_INSERT = f"""
    insert into traces (team_id, id, {", ".join(_FACTS)})
    values (%(team_id)s, %(id)s, {", ".join(f"%({name})s" for name in _FACTS)})
    on conflict (team_id, id) do nothing returning id
"""  # noqa: S608 - put together from constants
_RESCORE = """
    update traces set
        reward = %(reward)s, status = %(status)s, timed_out_at = %(timed_out_at)s,
        exited_at = coalesce(exited_at, clock_timestamp()), last_activity_at = clock_timestamp()
    where team_id = %(team_id)s and id = %(id)s
"""
_JSON = ("evaluation_result", "extra")


@dataclass(frozen=True, slots=True)
class ImportedTurn:
    """A turn, what the gateway knew of it, and what its answer says to people."""

    turn: Turn
    served: Served | None = None
    content: str | None = None
    tool_calls: list[Any] = field(default_factory=list[Any])


@dataclass(frozen=True, slots=True)
class NewTrace:
    """A rollout from elsewhere. Facts as in `TraceRow`; `status` None: it still ran. Texts must be storable."""

    team_id: UUID
    id: UUID
    turns: Sequence[ImportedTurn]
    status: str | None
    reward: float | None
    flags: frozenset[str] = frozenset()
    job_id: UUID | None = None
    group_id: str | None = None
    parent_trace_id: str | None = None
    task_slug: str | None = None
    model: str | None = None
    model_id: UUID | None = None
    error: str | None = None
    stop_reason: str | None = None
    evaluation_result: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None
    entered_at: datetime | None = None
    exited_at: datetime | None = None
    timed_out_at: datetime | None = None
    labels: list[str] = field(default_factory=list[str])
    comments: Sequence[ImportedComment] = ()

    def facts(self) -> dict[str, Any]:
        """Columns of its row."""
        values = {name: getattr(self, name) for name in _FACTS}
        values.update({name: Jsonb(values[name]) for name in _JSON if values[name] is not None})
        return {"team_id": self.team_id, "id": self.id, **values}


class _OnRecord(Exception):
    """The trace is there already."""


async def import_trace(
    database: AsyncDatabase, blobs: BlobStore, trace: NewTrace, on_change: OnChange, *, rescore: bool = False
) -> Outcome:
    """Record a rollout under its id, for its team. One transaction, in which `on_change` is called if anything changes.

    Where the id is on record, its turns must be the same, bit for bit. Then nothing changes or, with `rescore`, reward
    and status do. Raises Conflict where the turns differ, or reward or status do without `rescore`.
    """

    async def insert(connection: AsyncConnection) -> None:
        if await (await connection.execute(_INSERT, trace.facts())).fetchone() is None:
            raise _OnRecord
        await add_comments(connection, trace.team_id, trace.id, trace.comments)
        await on_change(connection, "imported")

    try:
        await record(database, blobs, [_as_record(trace)], first=insert)
    except _OnRecord:
        return await _compare(database, blobs, trace, on_change, rescore=rescore)
    return "imported"


def content_id(turns: Sequence[ImportedTurn], reward: float | None) -> UUID:
    """For a rollout without an id: the same whenever the same is imported."""
    digest = hashlib.sha256(b"headway import 1" + repr(reward).encode())
    for one in turns:
        digest.update(sample_digest(one.turn))
    return UUID(bytes=digest.digest()[:16], version=5)


def _as_record(trace: NewTrace) -> TraceRecord:
    """Its turns as steps, as telemetry would have reported them, so that their order and number are on record."""
    samples = [NewSample(trace.team_id, trace.id, one.turn, one.served) for one in trace.turns]
    spans = [_step(number, one) for number, one in enumerate(trace.turns, 1)]
    return TraceRecord(trace.team_id, trace.id, samples, spans, trace.model, {IMPORTED, *trace.flags})


def _step(number: int, one: ImportedTurn) -> NewSpan:
    digest = sample_digest(one.turn)
    payload = {"step_id": number, "source": "agent", "content": one.content, "tool_calls": one.tool_calls}
    span: dict[str, Any] = {
        "name": "imported turn",
        "span_id": f"{number:016x}",
        "attributes": {"hud.schema": STEP_SCHEMA, "hud.payload": payload},
    }
    text = json.dumps(span, separators=(",", ":"))
    payload, contents = pack_payload(span, text, None)
    return NewSpan(
        span_id=span["span_id"],
        digest=hashlib.sha256(digest + text.encode()).digest(),
        num_bytes=len(text),
        payload=payload,
        contents=contents,
        schema_tag=STEP_SCHEMA,
        name=span["name"],
        step_id=number,
        source="agent",
        turn=one.turn,
        sample_digest=digest,
    )


async def _compare(
    database: AsyncDatabase, blobs: BlobStore, trace: NewTrace, on_change: OnChange, *, rescore: bool
) -> Outcome:
    found = (await resolve(database, blobs, trace.team_id, [trace.id])).get(trace.id)
    if found is None or _turns(found) != [sample_digest(one.turn) for one in trace.turns]:
        raise Conflict(
            f"trace {trace.id} is on record with other turns; delete it first, or import this one under another id"
        )
    if _is_scored_as(found, trace):
        return "unchanged"
    if not rescore:
        raise Conflict(
            f"trace {trace.id} is on record with reward {found.trace.reward} and status {found.trace.status}, and this "
            f"line says {trace.reward} and {trace.status or 'running'}; import with rescore to replace them"
        )
    async with database.connection() as connection, connection.transaction():
        await connection.execute(_RESCORE, trace.facts())
        await on_change(connection, "rescored")
    return "rescored"


def _turns(found: Resolved) -> list[bytes]:
    return [sample.digest for sample in found.samples]


def _is_scored_as(found: Resolved, trace: NewTrace) -> bool:
    status = trace.status or ("error" if trace.timed_out_at is not None else "running")
    return (found.trace.reward, found.trace.status) == (trace.reward, status)
