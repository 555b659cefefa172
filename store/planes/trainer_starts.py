"""Who asks for a trainer where there is work and none: one of all that could, and not again before a pause is over."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from psycopg.types.json import Jsonb

from store.database import AsyncConnection, Connection
from store.notify import TRAINERS_CHANGED
from store.planes.registration import takes_requests_sql

MAX_PAUSE_S = 900.0
_MAX_ERROR_CHARS = 500

_LIVES = takes_requests_sql("t")

_IS_OURS = "b.weights is not null and (%(only)s::jsonb is null or %(only)s::jsonb @> to_jsonb(b.slug))"

# The row of a base is the lock: of all that see the same need, one moves `next_at`, and the others find it moved.
_CLAIM = f"""
    with queued as (
        select m.base_id, count(*) as num
        from operations o join models m on m.id = o.model_id
        where o.state in ('queued', 'running') group by m.base_id
    ), needed as (
        select b.id, b.slug, coalesce(queued.num, 0) as num
        from models b left join queued on queued.base_id = b.id left join trainer_starts s on s.base_id = b.id
        where {_IS_OURS}
            and (queued.num is not null or s.wanted_at is not null)
            and not exists (select from trainers t where t.base_id = b.id and {_LIVES})
    ), claimed as (
        insert into trainer_starts as s (base_id, asked_at, attempts, next_at)
        select id, clock_timestamp(), 1, clock_timestamp() + make_interval(secs => %(pause_s)s) from needed
        on conflict (base_id) do update set
            asked_at = clock_timestamp(), attempts = s.attempts + 1, error = null,
            next_at = clock_timestamp()
                + make_interval(secs => least(%(pause_s)s * power(2, least(s.attempts, 20)), %(max_pause_s)s))
        where s.next_at <= clock_timestamp()
        returning base_id, attempts
    )
    select needed.id, needed.slug, needed.num, claimed.attempts
    from claimed join needed on needed.id = claimed.base_id
"""  # noqa: S608 - put together from constants

_ALL_SERVED = f"""
    select not exists (
        select from models b where {_IS_OURS}
            and not exists (select from trainers t where t.base_id = b.id and {_LIVES})
    )
"""  # noqa: S608

_WANT = """
    with noted as (
        insert into trainer_starts (base_id, wanted_at) values (%(base_id)s, clock_timestamp())
        on conflict (base_id) do update set wanted_at = clock_timestamp()
        where trainer_starts.wanted_at is null
        returning base_id
    )
    select pg_notify(%(channel)s, replace(base_id::text, '-', '')) from noted
"""

_FAILED = """
    insert into trainer_starts (base_id, error) values (%(base_id)s, %(error)s)
    on conflict (base_id) do update set error = %(error)s
"""


@dataclass(frozen=True, slots=True)
class WantedTrainer:
    """A base that needs a trainer, which the caller, and nobody else, shall see to now."""

    base_id: UUID
    base: str
    num_queued: int
    attempt: int

    @property
    def reason(self) -> str:
        """In words, for logs and the webhook."""
        return f"{self.num_queued} operations wait for a trainer" if self.num_queued else "the base was never loaded"


def claim_wanted(connection: Connection, bases: list[str] | None, pause_s: float) -> list[WantedTrainer]:
    """Those of `bases` (slugs; None: of all) that have work, no trainer that lives, and no attempt under way.

    After each attempt without a trainer that got ready, the pause doubles.
    """
    values = {"only": _only(bases), "pause_s": pause_s, "max_pause_s": MAX_PAUSE_S}
    return [WantedTrainer(*row) for row in connection.execute(_CLAIM.encode(), values)]


def all_served(connection: Connection, bases: list[str] | None) -> bool:
    """Whether each of these bases has a trainer that lives."""
    row = connection.execute(_ALL_SERVED.encode(), {"only": _only(bases)}).fetchone()
    return bool(row and row[0])


async def want_trainer(connection: AsyncConnection, base_id: UUID) -> None:
    """Ask for a trainer for a base without queued work: only a trainer can report what the base allows."""
    await connection.execute(_WANT, {"base_id": base_id, "channel": TRAINERS_CHANGED})


def _only(bases: list[str] | None) -> Jsonb | None:
    return None if bases is None else Jsonb(bases)


def start_failed(connection: Connection, base_id: UUID, error: str) -> None:
    """Keep why an attempt came to nothing, for those who wait, until a trainer is ready."""
    values = {"base_id": base_id, "error": error[:_MAX_ERROR_CHARS]}
    connection.execute(_FAILED, values)
