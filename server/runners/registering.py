"""A runner says that it is there, that it lives, and that it goes."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.principals.callers import Caller
from server.runners.agent_keys import AgentKeys
from server.runners.heartbeats import RunnerHeartbeats
from server.runners.taking_back import take_back
from server.values.sanitizing import readable_value, storable_text
from store.database import AsyncDatabase
from store.placements.presence import teams_on
from store.tables import ApiKeyRow, PlacementRow, RunnerRow, TeamRow
from wire.errors import InvalidRequest, NotFound
from wire.placements import Beat, Heartbeat, Registered, Registration

_NEVER_ARRIVED = "it never reached its runner"
_STOPPED = "its runner stopped"


async def register(session: AsyncSession, caller: Caller, said: Registration) -> Registered:
    """A new runner. Raises NotFound for a team that is not there, InvalidRequest for sessions without a way there."""
    if "session" in said.kinds and (said.url is None or said.tunnel_token is None):
        raise InvalidRequest("a runner that takes sessions says its url and tunnel_token; leave 'session' out of kinds")
    team_id = None
    if said.team is not None:
        team_id = await session.scalar(select(TeamRow.id).where(TeamRow.name == storable_text(said.team)))
        if team_id is None:
            raise NotFound("there is no team of that name; see 'headway team list'")
    values = readable_value(said.model_dump(exclude={"team", "labels", "kinds"}))
    labels = sorted({storable_text(label) for label in said.labels})
    row = RunnerRow(**values, team_id=team_id, key_id=caller.key_id, labels=labels, kinds=sorted(set(said.kinds)))
    session.add(row)
    await session.flush()
    return Registered(runner_id=row.id)


async def own_runner(session: AsyncSession, caller: Caller, runner_id: UUID) -> RunnerRow:
    """The runner that registered with a key of the same team. Raises NotFound."""
    of_team = select(ApiKeyRow.id).where(ApiKeyRow.team_id == caller.team_id)
    query = select(RunnerRow).where(RunnerRow.id == runner_id, RunnerRow.key_id.in_(of_team))
    row = await session.scalar(query)
    if row is None:
        raise _unknown(runner_id)
    return row


def _unknown(runner_id: UUID) -> NotFound:
    return NotFound(f"there is no runner {runner_id} of this team's keys; register again")


async def heartbeat(
    heartbeats: RunnerHeartbeats,
    database: AsyncDatabase,
    caller: Caller,
    runner_id: UUID,
    said: Heartbeat,
    keys: AgentKeys,
) -> Beat:
    """What it shall stop, whether it is drained, and the keys of its agents, whose time is prolonged. Raises
    NotFound."""
    trouble = None if said.trouble is None else storable_text(said.trouble)
    held = [(one.placement_id, one.attempt) for one in said.held]
    pulse = await heartbeats.beat(runner_id, caller.team_id, held, trouble)
    if pulse is None:
        raise _unknown(runner_id)
    if pulse.is_drained is None:
        return Beat(stop=[one.placement_id for one in said.held], drain=True)
    agent_keys = dict[str, str]()
    if pulse.has_rollouts:
        async with database.session() as session:
            row = await own_runner(session, caller, runner_id)
            agent_keys = await keys.of(session, row, await teams_on(session, runner_id))
    for placement_id in pulse.never_arrived:
        await take_back(database, placement_id, runner_id, _NEVER_ARRIVED, counts=False)
    return Beat(stop=pulse.to_stop, drain=pulse.is_drained, keys=agent_keys)


async def stop(database: AsyncDatabase, caller: Caller, runner_id: UUID) -> None:
    """It takes nothing any more, and what it still holds goes to others. Raises NotFound."""
    async with database.session() as session:
        row = await own_runner(session, caller, runner_id)
        row.stopped_at = row.stopped_at or await session.scalar(select(func.clock_timestamp()))
        query = select(PlacementRow.id).where(PlacementRow.runner_id == runner_id, PlacementRow.state == "running")
        held = list(await session.scalars(query))
    for placement_id in held:
        await take_back(database, placement_id, runner_id, _STOPPED, counts=False)
