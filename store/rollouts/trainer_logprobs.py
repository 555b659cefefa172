"""The trainer's logprobs of recorded tokens, beside the sampler's. One set a sample: that of the last pass over it.

They are there to be looked at. Nothing waits for them and nothing goes by them, so one that is lost is only not seen.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np

from store.database import AsyncConnection, Connection
from store.rollouts.arrays import pack, unpack
from wire.trajectories import Float32Array

# A trace at a time: whoever deletes it is waited for with nothing else locked, so that nobody deadlocks, and then there
# is no row to go on from. The commit does not wait for the disk.
_KEEP = """
    with trace as (
        select t.team_id, t.id from traces t join models m on m.team_id = t.team_id
        where m.id = %(model_id)s and t.id = %(trace_id)s for key share of t
    )
    insert into trainer_logprobs (team_id, trace_id, digest, operation_id, checkpoint_id, step, logprobs)
    select trace.team_id, trace.id, new.digest, %(operation_id)s, %(checkpoint_id)s, %(step)s, new.logprobs
    from trace, unnest(%(digests)s::bytea[], %(logprobs)s::bytea[]) as new (digest, logprobs),
        set_config('synchronous_commit', 'off', true)
    where exists (
        select from samples s
        where s.team_id = trace.team_id and s.trace_id = trace.id and s.digest = new.digest
    )
    on conflict (team_id, trace_id, digest) do update set
        operation_id = excluded.operation_id, checkpoint_id = excluded.checkpoint_id, step = excluded.step,
        computed_at = excluded.computed_at, logprobs = excluded.logprobs
"""

_READ = """
    select
        l.trace_id, l.digest, l.operation_id, o.kind, o.model_id, l.checkpoint_id, l.step, l.computed_at, l.logprobs
    from trainer_logprobs l left join operations o on o.id = l.operation_id
    where l.team_id = %(team_id)s and l.trace_id = any(%(ids)s)
"""

# Later: for the same model by the order in which a trainer writes them, for another one by when it was written.
_IS_KEPT = """
    select exists (
        select from trainer_logprobs l
        left join operations made on made.id = l.operation_id
        left join operations asked on asked.id = %(operation_id)s
        where l.team_id = %(team_id)s and l.trace_id = %(trace_id)s and (
            l.operation_id = %(operation_id)s
            or case when made.model_id = asked.model_id then made.sequence > asked.sequence
                else l.computed_at > asked.finished_at end
        )
    ) as is_kept
"""

_NONE = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass over tokens, and the weights that it went over; `checkpoint_id` None: an adapter that no step changed."""

    operation_id: UUID
    model_id: UUID
    checkpoint_id: UUID | None
    step: int


@dataclass(frozen=True, slots=True)
class TrainerLogprobs:
    """logprobs: float32 nats, one an output token of the sample. `kind` and `model_id`: of the operation."""

    operation_id: UUID
    kind: str | None
    model_id: UUID | None
    checkpoint_id: UUID | None
    step: int
    computed_at: datetime
    logprobs: Float32Array


TrainerLogprobsOf = Mapping[bytes, TrainerLogprobs]
"""By the digest of the sample, within one trace."""


def keep_trainer_logprobs(
    connection: Connection, made_by: Pass, trace_id: UUID, logprobs: Mapping[bytes, Float32Array]
) -> int:
    """Keep what a pass made of samples of one trace (by digest); for how many. Those that are not on record with the
    model's team, or not any more, are left out."""
    values = {
        "operation_id": made_by.operation_id,
        "model_id": made_by.model_id,
        "checkpoint_id": made_by.checkpoint_id,
        "step": made_by.step,
        "trace_id": trace_id,
        "digests": list(logprobs),
        "logprobs": [pack(_NONE, _NONE, row) for row in logprobs.values()],
    }
    return connection.execute(_KEEP, values).rowcount


async def is_kept(connection: AsyncConnection, team_id: UUID, trace_id: UUID, operation_id: UUID) -> bool:
    """Whether what this pass made of the trace is there, or what a later one did, which takes its place."""
    asked = {"team_id": team_id, "trace_id": trace_id, "operation_id": operation_id}
    row = await (await connection.execute(_IS_KEPT, asked)).fetchone()
    return bool(row and row.is_kept)


async def read_trainer_logprobs(
    connection: AsyncConnection, team_id: UUID, trace_ids: Iterable[UUID]
) -> dict[UUID, TrainerLogprobsOf]:
    """What is kept of the team's traces; a trace without any is left out."""
    rows = await (await connection.execute(_READ, {"team_id": team_id, "ids": list(set(trace_ids))})).fetchall()
    return await asyncio.to_thread(_unpacked, rows) if rows else {}


def _unpacked(rows: Sequence[Any]) -> dict[UUID, TrainerLogprobsOf]:
    found = defaultdict[UUID, dict[bytes, TrainerLogprobs]](dict)
    for row in rows:
        found[row.trace_id][row.digest] = TrainerLogprobs(
            row.operation_id,
            row.kind,
            row.model_id,
            row.checkpoint_id,
            row.step,
            row.computed_at,
            unpack(row.logprobs)[2],
        )
    return dict(found)
