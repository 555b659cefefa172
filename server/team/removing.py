"""Removes a team with all that it has, by an operator who knows how much that is.

In two transactions. The first checks what the operator counted, refuses the team's keys from then on, and cancels its
runs; the second, once these have ended, deletes its models as their team would, takes its environments out of service
and revokes its keys. What is cut off in between is taken up by the same call again. The row stays, since rollouts and
the audit log name it; its name is free.
"""

from __future__ import annotations

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import Actor, record
from server.catalog.contents import contents_of
from server.catalog.deleting import delete_model
from server.team.service import lock_team
from server.team.types import TeamContents
from store.notify import RUN_CHANGED, notify_async
from store.run_states import IS_LIVE, LIVE
from store.tables import ApiKeyRow, EnvironmentRow, ModelRow, RunRow, TeamRow
from wire.errors import Conflict

# ruff: noqa: S608 - put together from constants

_COUNTS = text(f"""
    select
        (select count(*) from models m where m.team_id = :id and m.removed_at is null) as num_models,
        (
            select count(*) from checkpoints c join models m on m.id = c.model_id
            where m.team_id = :id and m.removed_at is null and c.status = 'committed'
        ) as num_checkpoints,
        (select count(*) from runs r where r.team_id = :id and {IS_LIVE}) as num_live_runs,
        (select count(*) from traces t where t.team_id = :id) as num_rollouts,
        (select count(*) from api_keys k where k.team_id = :id and k.revoked_at is null) as num_keys,
        (select count(*) from tasksets t where t.team_id = :id) as num_tasksets,
        (select count(*) from environments e where e.team_id = :id and e.removed_at is null) as num_environments
""")


async def contents_of_team(session: AsyncSession, team: TeamRow) -> TeamContents:
    """What a team has."""
    counts = (await session.execute(_COUNTS, {"id": team.id})).mappings().one()
    return TeamContents(team=team.name, **dict(counts))


async def begin_removal(
    session: AsyncSession, team: TeamRow, models: int | None, runs: int | None, actor: Actor
) -> int:
    """Refuse its keys and cancel its runs; how many have not ended yet. Raises Conflict, which counts what it has,
    unless `models` is the number of its models and `runs` that of its runs that live (which may be left out for 0)."""
    await lock_team(session, team)
    found = await contents_of_team(session, team)
    is_begun = team.disabled_at is not None and runs is not None and found.num_live_runs <= runs
    if models != found.num_models or not (is_begun or (runs or 0) == found.num_live_runs):
        raise Conflict(
            f"{in_words(found)}; disable it instead, or to remove it repeat the numbers: "
            f"models={found.num_models}{f', runs={found.num_live_runs}' if found.num_live_runs else ''}"
        )
    if team.disabled_at is None:
        team.disabled_at = (await session.scalars(select(func.clock_timestamp()))).one()
        record(session, actor, "disable_team", team_id=team.id, subject_id=team.id)
    query = select(RunRow).where(RunRow.team_id == team.id, RunRow.state.in_(LIVE)).with_for_update()
    live = list(await session.scalars(query))
    for run in live:
        if run.state != "cancelling":
            run.state = "cancelling"
            record(session, actor, "cancel_run", team_id=team.id, subject_id=run.model_id, run=str(run.id))
            await notify_async(session, RUN_CHANGED, run.id.hex)
    await session.flush()
    return len(live)


async def finish_removal(session: AsyncSession, team: TeamRow, actor: Actor) -> TeamContents:
    """Delete its models, and everything that its keys opened. Raises Conflict while a model cannot be deleted."""
    await lock_team(session, team)
    found = await contents_of_team(session, team)
    query = select(ModelRow).where(ModelRow.team_id == team.id, ModelRow.removed_at.is_(None)).order_by(ModelRow.id)
    for model in list(await session.scalars(query.with_for_update())):
        await delete_model(session, actor, model, (await contents_of(session, model)).num_checkpoints)
    now = (await session.scalars(select(func.clock_timestamp()))).one()
    environments = update(EnvironmentRow).where(EnvironmentRow.team_id == team.id, EnvironmentRow.removed_at.is_(None))
    await session.execute(environments.values(removed_at=now, current_build_id=None, variables={}))
    keys = update(ApiKeyRow).where(ApiKeyRow.team_id == team.id, ApiKeyRow.revoked_at.is_(None))
    await session.execute(keys.values(revoked_at=now))
    record(session, actor, "remove_team", team_id=team.id, subject_id=team.id, **found.model_dump())
    team.name, team.removed_at = f"{team.name} (removed {team.id.hex[:8]})", now
    await session.flush()
    return found


def in_words(found: TeamContents) -> str:
    """What a team has, as one sentence."""
    counted = {
        "model": found.num_models,
        "checkpoint": found.num_checkpoints,
        "live run": found.num_live_runs,
        "taskset": found.num_tasksets,
        "environment": found.num_environments,
        "key": found.num_keys,
    }
    parts = [f"{number:,} {noun}{'' if number == 1 else 's'}" for noun, number in counted.items() if number]
    has = ", ".join(parts) or "nothing that lives"
    stay = f"{found.num_rollouts:,} rollout{'' if found.num_rollouts == 1 else 's'}"
    return f"the team {found.team!r} has {has}, and {stay} that would be nobody's"
