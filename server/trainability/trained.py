"""Which models were trained on some tasks, lately."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

_NEWEST = 200
"""Rollouts of a task that are looked at: enough to meet every model that is trained on it now."""

_MODELS = text("""
    select n.model_id
    from unnest(cast(:tasks as text[])) as task(slug)
    cross join lateral (
        select t.model_id, t.job_id, t.created_at from traces t
        where t.team_id = :team_id and t.task_slug = task.slug
        order by t.created_at desc limit :newest
    ) n
    left join jobs j on j.team_id = :team_id and j.id = n.job_id
    where n.model_id is not null and j.is_evaluation is not true
    group by n.model_id order by max(n.created_at) desc
""")


async def trained_on(session: AsyncSession, team_id: UUID, tasks: Sequence[str]) -> Sequence[UUID]:
    """Ids of a team's models with rollouts of these tasks, evaluations aside; who ran them last comes first."""
    asked = {"team_id": team_id, "tasks": list(tasks), "newest": _NEWEST}
    return (await session.scalars(_MODELS, asked)).all() if tasks else []
