"""Which bases have a trainer, and why one that has none has none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from store.planes.registration import lives_sql

_SUPPLY = f"""
    with known as (
        select t.*, {lives_sql("t")} as lives from trainers t
    )
    select
        m.id, m.slug, m.info is not null,
        (select count(*) from known t where t.base_id = m.id and lives and not is_loading and drained_at is null),
        (select min(started_at) from known t where t.base_id = m.id and lives and is_loading),
        (select max(coalesce(stopped_at, heartbeat_at)) from known t where t.base_id = m.id and not lives),
        (
            select count(*) from operations o join models f on f.id = o.model_id
            where f.base_id = m.id and o.state in ('queued', 'running')
        ),
        s.asked_at, coalesce(s.attempts, 0), s.next_at, s.error
    from models m left join trainer_starts s on s.base_id = m.id
    where m.weights is not null and (cast(:base_id as uuid) is null or m.id = :base_id)
    order by m.created_at
"""  # noqa: S608 - put together from constants


@dataclass(frozen=True, slots=True)
class TrainerAvailability:
    """A base, its trainers, and what is done about it when there is none."""

    base_id: UUID
    base: str
    is_loaded: bool
    """A trainer has loaded it once, so it is known what it allows."""
    num_ready: int
    loading_since: datetime | None
    last_seen: datetime | None
    num_open: int
    asked_at: datetime | None
    attempts: int
    next_at: datetime | None
    error: str | None

    @property
    def shortage(self) -> str | None:
        """Why nothing is trained, in one sentence; None while a trainer is ready."""
        if self.num_ready:
            return None
        if self.loading_since:
            return f"a trainer for base {self.base} is starting since {_at(self.loading_since)}"
        seen = f"is alive since {_at(self.last_seen)}" if self.last_seen else "was ever started"
        return f"no trainer for base {self.base} {seen}; {_count(self.num_open)} queued; {self._remedy()}"

    def _remedy(self) -> str:
        by_hand = f"start one with 'headway trainer --base {self.base}'"
        if self.asked_at is None or self.next_at is None:
            return f"the last one could not start: {self.error}; {by_hand}" if self.error else by_hand
        asked = f"one was asked for at {_at(self.asked_at)} (attempt {self.attempts})"
        came_of_it = f"failed: {self.error}" if self.error else "has not come up yet"
        return f"{asked} and {came_of_it}; the next attempt is due at {_at(self.next_at)}, or {by_hand}"


def trainer_availability(session: Session) -> list[TrainerAvailability]:
    """All bases."""
    return [TrainerAvailability(*row) for row in session.execute(*_query(None))]


async def trainer_availability_async(session: AsyncSession, base_id: UUID | None = None) -> list[TrainerAvailability]:
    """All bases, or this one."""
    return [TrainerAvailability(*row) for row in await session.execute(*_query(base_id))]


def _query(base_id: UUID | None) -> tuple[TextClause, dict[str, Any]]:
    return text(_SUPPLY), {"base_id": base_id}


def _at(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S %Z}"


def _count(operations: int) -> str:
    return f"{operations} operation{'' if operations == 1 else 's'}"
