"""Which taskset tasks are from that were sent without its name: the one of exactly these tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.runs.settings import InlineTask
from server.runs.tasks import read_tasks
from store.tables import TasksetRow, TasksetTaskRow
from store.tasksets import contents_of
from wire.environment_names import normalized_name
from wire.process.off_loop import off_loop

_MOST_COMPARED = 3
"""Tasksets with so many tasks, one of which has the first one's slug."""


async def name_of_same_tasks(session: AsyncSession, team_id: UUID, tasks: Sequence[InlineTask]) -> str | None:
    """The name of the team's newest taskset with the same slugs, environments, task ids and arguments."""
    if not tasks or tasks[0].slug is None:
        return None
    of_it = TasksetTaskRow.taskset_id == TasksetRow.id
    query = select(TasksetRow).where(
        TasksetRow.team_id == team_id,
        TasksetRow.num_tasks == len(tasks),
        exists().where(of_it, TasksetTaskRow.name == tasks[0].slug),
    )
    sent: set[str] | None = None
    for row in await session.scalars(query.order_by(TasksetRow.updated_at.desc()).limit(_MOST_COMPARED)):
        contents = await contents_of(session, row.id)
        if sent is None:
            sent = await off_loop(row.num_bytes, _sent, tasks)
        if sent == await off_loop(row.num_bytes, _kept, contents):
            return row.name
    return None


def _sent(tasks: Sequence[InlineTask]) -> set[str]:
    return {_identity(task.slug, task.env, task.id, task.args) for task in tasks}


def _kept(contents: Sequence[str]) -> set[str]:
    tasks = read_tasks(f"[{','.join(contents)}]")
    return {_identity(task.slug, task.environment, task.id, task.args) for task in tasks}


def _identity(slug: str | None, environment: str, task_id: str, args: object) -> str:
    return json.dumps([slug, normalized_name(environment), task_id, args], sort_keys=True)
