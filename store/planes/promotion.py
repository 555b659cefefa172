"""How many samplers must hold a checkpoint before a head may point at it, and which samplers lag behind.

A policy says for whom a promotion waits, within its time limit; it never lets a head point at what nobody serves. Who
refuses the checkpoint, lags behind its base's heads, or has no heartbeat is not waited for: the gateway sends it
nothing until it has caught up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from store.database import AsyncConnection, Connection
from store.planes.promotion_policy import PromotionPolicy
from store.planes.registration import takes_requests_sql
from store.planes.served import SERVED
from wire.adapter_names import adapter_name_sql, base_adapter_name_sql

LATE_AFTER_S = 30.0
"""A live sampler that has not loaded a head for so long is out of rotation: promotions do not wait for it."""


@dataclass(frozen=True, slots=True)
class Votes:
    """The live samplers of a base on one adapter: how many hold it, why others refuse it, how many of the rest are late
    with the heads that they should hold."""

    live: int
    loaded: int
    refusals: list[str] = field(default_factory=list[str])
    late: int = 0

    @property
    def is_refused(self) -> bool:
        """Whether every live sampler refuses it."""
        return 0 < self.live <= len(self.refusals)

    def suffice(self, policy: PromotionPolicy) -> bool:
        """Whether nobody else has to be waited for."""
        able = self.live - len(self.refusals) - self.late
        return self.loaded >= max(1, min(policy.num_needed(self.live), able))


@dataclass(frozen=True, slots=True)
class Missing:
    """A live sampler without an adapter that its base must serve: that of `model`'s head, `checkpoint` (None: the base
    weights). `error`: why it could not load it, if it tried."""

    sampler_id: UUID
    base: str
    url: str
    model: str
    checkpoint: str | None
    late_s: float
    error: str | None

    @property
    def is_out_of_rotation(self) -> bool:
        """Refused, or late for too long. (Until then it may be loading.)"""
        return self.error is not None or self.late_s > LATE_AFTER_S


_VOTES = f"""
    select
        count(*) as live,
        count(*) filter (where a.state = 'loaded') as loaded,
        array_agg(coalesce(a.error, 'unknown')) filter (where a.state = 'failed') as refusals
    from samplers s
    left join sampler_adapters a on a.sampler_id = s.id and a.adapter = %(adapter)s
    where s.base_id = %(base_id)s and {takes_requests_sql("s")}
"""  # noqa: S608 - put together from constants

_MISSING = f"""
    select
        s.id as sampler_id, b.slug as base, s.url, w.model, w.checkpoint,
        extract(epoch from clock_timestamp() - greatest(w.since, s.started_at))::float8 as late_s,
        case when a.state = 'failed' then coalesce(a.error, 'unknown') end as error
    from samplers s
    join models b on b.id = s.base_id
    cross join lateral (
        select {base_adapter_name_sql("b.id")} as adapter, b.slug as model, null as checkpoint,
            s.started_at as since
        union all
        select {adapter_name_sql("c.files_id")}, m.slug, c.name, c.created_at
        from models m join checkpoints c on c.id = {SERVED}
        where m.base_id = s.base_id
    ) w
    left join sampler_adapters a on a.sampler_id = s.id and a.adapter = w.adapter
    where {takes_requests_sql("s")}
        and a.state is distinct from 'loaded'
        and (%(base_id)s::uuid is null or s.base_id = %(base_id)s::uuid)
    order by b.slug, s.started_at, w.model
"""  # noqa: S608 - put together from constants

_LATE = f"""
    select count(distinct missing.sampler_id) as late from ({_MISSING}) missing
    left join sampler_adapters a on a.sampler_id = missing.sampler_id and a.adapter = %(adapter)s
    where a.state is null and (missing.error is not null or missing.late_s > %(late_after_s)s)
"""  # noqa: S608 - put together from a constant


def promotion_votes(connection: Connection, policy: PromotionPolicy, base_id: UUID, adapter: str) -> Votes:
    """What the live samplers of a base say about an adapter. Who is late is asked only where it may matter."""
    values = _values(base_id, adapter)
    (row,) = connection.execute(_VOTES, values)
    votes = Votes(row.live, row.loaded, row.refusals or [])
    if policy is PromotionPolicy.ONE or not votes.loaded or votes.suffice(policy):
        return votes
    (row,) = connection.execute(_LATE.encode(), values)
    return Votes(votes.live, votes.loaded, votes.refusals, row.late)


async def promotion_votes_async(
    connection: AsyncConnection, policy: PromotionPolicy, base_id: UUID, adapter: str
) -> Votes:
    """As promotion_votes."""
    values = _values(base_id, adapter)
    (row,) = await (await connection.execute(_VOTES, values)).fetchall()
    votes = Votes(row.live, row.loaded, row.refusals or [])
    if policy is PromotionPolicy.ONE or not votes.loaded or votes.suffice(policy):
        return votes
    (row,) = await (await connection.execute(_LATE.encode(), values)).fetchall()
    return Votes(votes.live, votes.loaded, votes.refusals, row.late)


def missing_adapters(connection: Connection, base_id: UUID | None = None) -> list[Missing]:
    """What live samplers (of one base, or of all) should hold and do not; the gateway does not send anybody to them
    for it."""
    rows = connection.execute(_MISSING, {"base_id": base_id})
    return [Missing(**row._asdict()) for row in rows]


def _values(base_id: UUID, adapter: str) -> dict[str, Any]:
    return {"base_id": base_id, "adapter": adapter, "late_after_s": LATE_AFTER_S}
