"""Teams: made, renamed, given quotas, disabled, and removed while nothing is theirs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import Actor, record
from server.catalog.repository import as_uuid
from server.principals.quotas import seconds_to_reset
from server.team.types import Quotas, Team, TeamChange, TeamWithUsage, Usage
from server.values.paging import Page, page_of
from server.values.sanitizing import is_storable
from store.tables import ApiKeyRow, TeamRow
from store.usage import usage_of
from wire.errors import Conflict, NotFound


async def get_team(session: AsyncSession, reference: str) -> TeamRow:
    """The team of that id or name. Raises NotFound."""
    team = None
    if (team_id := as_uuid(reference)) is not None:
        team = await session.get(TeamRow, team_id)
    if team is None and is_storable(reference):
        team = await session.scalar(select(TeamRow).where(TeamRow.name == reference))
    if team is None or team.removed_at is not None:
        raise NotFound(f"there is no team {reference!r}; see 'headway team list'")
    return team


async def lock_team(session: AsyncSession, team: TeamRow) -> None:
    """Lock its row for update. Raises NotFound where somebody else removed it while the lock was waited for."""
    await session.refresh(team, with_for_update=True)
    if team.removed_at is not None:
        raise NotFound(f"there is no team {team.name!r}; see 'headway team list'")


async def list_teams(session: AsyncSession, cursor: str | None, limit: int) -> Page[Team]:
    """All teams, oldest first."""
    place = (TeamRow.created_at, TeamRow.id)
    rows, following = await page_of(session, select(TeamRow).where(TeamRow.removed_at.is_(None)), place, cursor, limit)
    return Page(items=[Team(**_facts(row[0])) for row in rows], next_cursor=following)


async def describe_team(session: AsyncSession, team: TeamRow) -> TeamWithUsage:
    """A team, its quotas, and what it uses of them."""
    used = await usage_of(session, team.id)
    now = datetime.now(UTC)
    resets_at = (now + timedelta(seconds=seconds_to_reset(now))).replace(second=0, microsecond=0)
    usage = Usage(
        num_models=used.num_models,
        storage_bytes=used.storage_bytes,
        training_tokens_today=used.training_tokens_today,
        resets_at=resets_at,
    )
    return TeamWithUsage(**_facts(team), usage=usage)


async def create_team(session: AsyncSession, name: str, quotas: Quotas, actor: Actor) -> TeamRow:
    """A new team. Raises Conflict for a name that is taken."""
    await _refuse_taken(session, name)
    team = TeamRow(name=name, **quotas.model_dump())
    session.add(team)
    await _flush_name(session, name)
    await session.refresh(team)
    record(session, actor, "create_team", team_id=team.id, subject_id=team.id, name=name, quotas=_set(quotas))
    await session.flush()
    return team


async def change_team(session: AsyncSession, team: TeamRow, change: TeamChange, actor: Actor) -> None:
    """Rename, disable or enable, and set the quotas that are named. Raises Conflict for a name that is taken."""
    await lock_team(session, team)
    if change.name is not None and change.name != team.name:
        await _refuse_taken(session, change.name)
        _record(session, actor, "rename_team", team, was=team.name, name=change.name)
        team.name = change.name
        await _flush_name(session, change.name)
    if change.disabled is not None and change.disabled != (team.disabled_at is not None):
        team.disabled_at = await session.scalar(select(func.clock_timestamp())) if change.disabled else None
        _record(session, actor, "disable_team" if change.disabled else "enable_team", team)
    if change.quotas is not None and (quotas := _set(change.quotas)):
        for name, value in quotas.items():
            setattr(team, name, value)
        _record(session, actor, "set_quotas", team, **quotas)
    await session.flush()


async def delete_empty_team(session: AsyncSession, team: TeamRow, actor: Actor) -> bool:
    """Delete a team and its keys, if it never had models, jobs, traces or anything else; whether it was so."""
    try:
        async with session.begin_nested():
            await session.execute(delete(ApiKeyRow).where(ApiKeyRow.team_id == team.id))
            await session.execute(delete(TeamRow).where(TeamRow.id == team.id))
            _record(session, actor, "delete_team", team, name=team.name)
    except IntegrityError:
        return False
    return True


def _facts(team: TeamRow) -> dict[str, Any]:
    quotas = Quotas(**{name: getattr(team, name) for name in Quotas.model_fields})
    return {
        "id": team.id,
        "name": team.name,
        "created_at": team.created_at,
        "disabled_at": team.disabled_at,
        "quotas": quotas,
    }


def _set(quotas: Quotas) -> dict[str, Any]:
    """The quotas that a request names, null ones (which lift a limit) among them."""
    return quotas.model_dump(exclude_unset=True)


def _record(session: AsyncSession, actor: Actor, action: str, team: TeamRow, **detail: Any) -> None:
    record(session, actor, action, team_id=team.id, subject_id=team.id, **detail)


async def _refuse_taken(session: AsyncSession, name: str) -> None:
    if await session.scalar(select(TeamRow.id).where(TeamRow.name == name)) is not None:
        raise _taken(name)


async def _flush_name(session: AsyncSession, name: str) -> None:
    """The unique index decides between two at once."""
    try:
        await session.flush()
    except IntegrityError as error:
        raise _taken(name) from error


def _taken(name: str) -> Conflict:
    return Conflict(f"there is a team {name!r} already; choose another name")


def refuse_own_team(team_id: UUID, own_id: UUID) -> None:
    """Raises Conflict where an operator would lock themselves out."""
    if team_id == own_id:
        raise Conflict(
            "that is the team of your own key, which would be refused from then on; use a key of another team"
        )
