"""Quotas of a team, where they are enforced: forks, training calls; the gateway's are in `server.sampling.limits`.

A call that crosses a line is taken, the next one is refused: what a batch or a checkpoint adds is known afterwards.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import ClassVar
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.principals.callers import Caller
from store.admission import Admission
from store.database import AsyncDatabase
from store.listed_models import is_listed
from store.tables import ModelRow, TeamRow
from store.usage import storage_of
from wire.errors import FINAL, UNTIL_MENDED, Forbidden, HeadwayError

_RAISE = "an operator can raise it ('headway quota set')"


class QuotaFull(Forbidden):
    """The team has all that it may have; time alone changes nothing."""

    code: ClassVar[str] = "quota_full"
    tries: ClassVar[int | None] = FINAL


class QuotaSpent(HeadwayError):
    """The team has used up what it may use; it gets more when the time comes."""

    status: ClassVar[int] = 429
    code: ClassVar[str] = "quota_spent"
    tries: ClassVar[int | None] = UNTIL_MENDED


async def refuse_another_model(session: AsyncSession, team_id: UUID) -> None:
    """Raises QuotaFull for a team with as many models as it may have. Racing forks of a team take turns from here.

    Runs of which nothing was saved are not counted.
    """
    team = await session.get_one(TeamRow, team_id, with_for_update=True, populate_existing=True)
    if team.max_models is None:
        return
    query = select(func.count()).select_from(ModelRow).where(ModelRow.team_id == team_id, is_listed())
    num_models = await session.scalar(query) or 0
    if num_models >= team.max_models:
        raise QuotaFull(f"the team {team.name!r} has {num_models} of its {team.max_models} models; {_RAISE}")


async def refuse_full_storage(database: AsyncDatabase, caller: Caller, found: Admission) -> None:
    """Raises QuotaFull for a team whose checkpoints and pictures take all the storage that it may have."""
    if found.max_storage_bytes is None:
        return
    async with database.session() as session:
        used = await storage_of(session, caller.team_id)
    if used >= found.max_storage_bytes:
        raise QuotaFull(
            f"the checkpoints and pictures of team {caller.team!r} take {used} of its {found.max_storage_bytes} bytes "
            f"of storage; they shrink as old optimizer states are thinned, and {_RAISE}. The gradients are kept: "
            "then call optim-step again"
        )


async def refuse_more_files(session: AsyncSession, team_id: UUID) -> None:
    """Raises QuotaFull for such a team where it brings files or pictures of its own."""
    team = await session.get_one(TeamRow, team_id)
    if team.max_storage_bytes is None or (used := await storage_of(session, team_id)) < team.max_storage_bytes:
        return
    raise QuotaFull(
        f"the checkpoints and pictures of team {team.name!r} take {used} of its {team.max_storage_bytes} bytes of "
        f"storage; {_RAISE}"
    )


def refuse_spent_tokens(caller: Caller, found: Admission) -> None:
    """Raises QuotaSpent for a team that has sent all the tokens that it may train on today."""
    allowed = found.max_training_tokens_per_day
    if allowed is None or found.tokens_today < allowed:
        return
    wait_s = seconds_to_reset(datetime.now(UTC))
    raise QuotaSpent(
        f"the team {caller.team!r} has used {found.tokens_today} of its {allowed} training tokens of today; it gets "
        f"as many again at 00:00 UTC, in {_hours(wait_s)}, and {_RAISE}",
        retry_after_s=wait_s,
    )


def seconds_to_reset(now: datetime) -> int:
    """Until the next day begins, UTC."""
    midnight = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
    return int((midnight - now).total_seconds()) + 1


def _hours(seconds: int) -> str:
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
