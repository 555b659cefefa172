"""Sessions: an environment here whose agent is at a client. A session is a placement; its environment may be up later.

It ends when its client says so, without a tunnel for a while, at its greatest age, and with the trace that it is for.
"""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from server.environments.finding import deployed_environment
from server.principals.callers import Caller
from store.placements.queueing import cancel, enqueue
from store.tables import EnvironmentSessionRow, PlacementRow, RunnerRow
from wire.errors import FINAL, Gone, HeadwayError, NotFound

MAX_AGE_S = 4 * 3600.0
WITHOUT_TUNNEL_S = 120.0
AFTER_LAST_TUNNEL_S = 60.0
MOST_TUNNELS = 64
"""Of a session at once."""
_MOST_LIVE = 10_000

_LIVE = "p.state <> 'ended' and p.cancelled_at is null"
_SILENT = f"""
    select p.id, case when s.num_tunnels = 0 then 'nobody connected to it' else 'its client was gone' end as why
    from environment_sessions s join placements p on p.id = s.placement_id
    where {_LIVE} and s.tunnel_changed_at < clock_timestamp() - make_interval(
        secs => case when s.num_tunnels = 0 then {WITHOUT_TUNNEL_S} else {AFTER_LAST_TUNNEL_S} end
    )
"""
_TOO_OLD = f"""
    select p.id, 'it reached its greatest age' as why
    from environment_sessions s join placements p on p.id = s.placement_id
    where {_LIVE} and p.created_at < clock_timestamp() - make_interval(secs => p.timeout_s)
"""
_OF_CANCELLED_TRACES = f"""
    select p.id, 'its trace was cancelled' as why
    from environment_sessions s join placements p on p.id = s.placement_id
    join traces t on (t.team_id, t.id) = (s.team_id, s.trace_id)
    where {_LIVE} and t.status = 'cancelled'
"""
_OVER = text(f"{_SILENT} union {_TOO_OLD} union {_OF_CANCELLED_TRACES} limit 500")
_FRESH = f"tunnel_changed_at > clock_timestamp() - make_interval(secs => {AFTER_LAST_TUNNEL_S})"
# Tunnels of a server that died are never counted down: they count while somebody saw one of the session lately.
_OPENED = text(f"""
    update environment_sessions
    set num_open_tunnels = case when {_FRESH} then num_open_tunnels else 0 end + 1,
        num_tunnels = num_tunnels + 1, tunnel_changed_at = clock_timestamp()
    where placement_id = :id and (num_open_tunnels < {MOST_TUNNELS} or not {_FRESH})
    returning placement_id
""")
_CLOSED = text("""
    update environment_sessions
    set num_open_tunnels = greatest(num_open_tunnels - 1, 0), tunnel_changed_at = clock_timestamp()
    where placement_id = :id
""")
_SEEN = text("update environment_sessions set tunnel_changed_at = clock_timestamp() where placement_id = any(:ids)")


class TooManyTunnels(HeadwayError):
    """A session has as many tunnels as it may."""

    status: ClassVar[int] = 429
    code: ClassVar[str] = "too_many_tunnels"
    tries: ClassVar[int | None] = FINAL


class TooManySessions(HeadwayError):
    """A team has as many sessions as it may."""

    status: ClassVar[int] = 429
    code: ClassVar[str] = "too_many_sessions"
    tries: ClassVar[int | None] = FINAL


@dataclass(frozen=True, slots=True)
class RunnerAddress:
    """Where the session's runner takes tunnels, and what servers show it there."""

    runner_id: UUID
    url: str
    token: str


async def open_session(session: AsyncSession, caller: Caller, environment: str, trace_id: UUID | None) -> str:
    """Its public id. Raises NotFound for an environment that is not deployed, TooManySessions."""
    deployed = await deployed_environment(session, caller.team_id, environment)
    live = select(func.count()).select_from(PlacementRow)
    live = live.where(PlacementRow.team_id == caller.team_id, PlacementRow.state != "ended")
    if (await session.scalar(live) or 0) >= _MOST_LIVE:
        raise TooManySessions(
            f"the team {caller.team!r} has {_MOST_LIVE} environments and rollouts running or waiting; let some end"
        )
    placement = PlacementRow(
        kind="session",
        team_id=caller.team_id,
        build_id=deployed.build.id,
        timeout_s=_age_s(deployed.build.runtime_config),
    )
    await enqueue(session, placement)
    row = EnvironmentSessionRow(
        placement_id=placement.id, team_id=caller.team_id, trace_id=trace_id, environment=deployed.environment.name
    )
    session.add(row)
    await session.flush()
    return placement.id.hex


async def close_session(session: AsyncSession, caller: Caller, session_id: UUID) -> None:
    """End it; again and again. Raises NotFound."""
    await check_session(session, caller, session_id)
    await cancel(session, session_id)


async def check_session(session: AsyncSession, caller: Caller, session_id: UUID) -> None:
    """Raises NotFound unless it is a session of the caller's team."""
    row = await session.get(EnvironmentSessionRow, session_id)
    if row is None or row.team_id != caller.team_id:
        raise NotFound("there is no such session of an environment: it has ended; run the task again")


async def runner_of(session: AsyncSession, session_id: UUID) -> RunnerAddress | None:
    """Where the session's environment runs; None while it does not yet. Raises Gone, saying why, when it has ended."""
    query = select(PlacementRow, RunnerRow).outerjoin(RunnerRow, RunnerRow.id == PlacementRow.runner_id)
    found: tuple[PlacementRow, RunnerRow | None] | None
    found = cast(Any, (await session.execute(query.where(PlacementRow.id == session_id))).one_or_none())
    if found is None:
        raise Gone("this session of an environment has ended; run the task again")
    placement, runner = found
    if placement.state == "ended" or placement.cancelled_at is not None:
        raise Gone(_why_ended(placement))
    if placement.state != "running" or placement.ready_at is None or runner is None:
        return None
    if runner.url is None or runner.tunnel_token is None:
        raise Gone("the runner of this session takes no tunnels; an operator has to give it an address")
    return RunnerAddress(runner.id, runner.url, runner.tunnel_token)


async def tunnel_opened(session: AsyncSession, session_id: UUID) -> None:
    """One more. Raises TooManyTunnels."""
    if (await session.execute(_OPENED, {"id": session_id})).one_or_none() is None:
        raise TooManyTunnels(f"this session has {MOST_TUNNELS} connections open, as many as it may; close some")


async def tunnel_closed(session: AsyncSession, session_id: UUID) -> None:
    """One less."""
    await session.execute(_CLOSED, {"id": session_id})


async def tunnels_seen(session: AsyncSession, session_ids: list[UUID]) -> None:
    """These have tunnels open in this process."""
    await session.execute(_SEEN, {"ids": session_ids})


async def end_what_is_over(session: AsyncSession) -> int:
    """End sessions that nobody uses, that are too old, or whose trace was cancelled; how many."""
    over = {row.id: row.why for row in await session.execute(_OVER)}
    for placement_id in sorted(over):
        await cancel(session, placement_id, f"the session was ended: {over[placement_id]}")
    return len(over)


def _age_s(runtime_config: dict[str, Any] | None) -> float:
    limits: dict[str, Any] = (runtime_config or {}).get("limits") or {}
    return min(limits.get("run_timeout_s") or MAX_AGE_S, MAX_AGE_S)


def _why_ended(placement: PlacementRow) -> str:
    if placement.outcome == "failed":
        return f"the environment could not be run: {placement.error or 'its runner did not say why'}"
    return placement.error or "this session of an environment has ended; run the task again"
