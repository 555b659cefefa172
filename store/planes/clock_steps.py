"""What PostgreSQL's clock has dated in the future, after it was set back, is dated anew.

Planes count as alive, leases as held, and placements as put off, by times that PostgreSQL writes and compares. Set back
by an hour, its clock would have all of them last for an hour longer: a plane that died would be waited for. Planes that
live date theirs anew with their next heartbeat. Those of others are moved by as much as they lie ahead: a heartbeat to
now, and a lease, which was dated with it, to as long after it as before. From there they age by the clock as it is.

A clock that is set forward needs nothing: what lives is dated anew within seconds, and until then whoever takes its
work has the larger token.
"""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from store.database import AsyncConnection
from store.planes.trainer_starts import MAX_PAUSE_S

_AHEAD = "clock_timestamp() + interval '1 s'"
_LONGEST_PAUSE_S = 60.0
"""Of a placement that is taken back is less."""

_TRAINERS = f"""
    with ahead as (
        select id, heartbeat_at - clock_timestamp() as by from trainers where heartbeat_at > {_AHEAD}
    ), dated as (
        update trainers t set heartbeat_at = clock_timestamp()
        from ahead where t.id = ahead.id and t.heartbeat_at > {_AHEAD} returning t.id, ahead.by
    )
    update model_leases l set expires_at = l.expires_at - dated.by
    from dated where l.trainer_id = dated.id and l.expires_at > clock_timestamp() + dated.by
"""
"""In the order in which a trainer's heartbeat locks them."""
_HEARTBEATS = tuple(
    f"update {table} set heartbeat_at = clock_timestamp() where heartbeat_at > {_AHEAD}"
    for table in ("samplers", "runners")
)
_DEMANDS = f"""
    update sampler_demands
    set seen_at = least(seen_at, clock_timestamp()), asked_at = least(asked_at, clock_timestamp())
    where seen_at > {_AHEAD} or asked_at > {_AHEAD}
"""
"""What was asked last, too: a base that nobody asks for any more would keep a sampler for as long."""
_PLACEMENTS = f"""
    update placements set available_at = clock_timestamp()
    where state = 'queued' and available_at > clock_timestamp() + interval '{_LONGEST_PAUSE_S} s'
"""
_STARTS = f"""
    update trainer_starts set asked_at = clock_timestamp(), next_at = clock_timestamp()
    where asked_at > {_AHEAD} or next_at > clock_timestamp() + interval '{MAX_PAUSE_S + 1} s'
"""


async def date_anew(connection: AsyncConnection) -> None:
    """Again and again, by every server. Costs little where nothing lies ahead, which is nearly always."""
    for statement in (_TRAINERS, *_HEARTBEATS, _DEMANDS, _PLACEMENTS, _STARTS):
        await connection.execute(statement.encode())
