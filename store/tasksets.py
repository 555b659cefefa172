"""Writes and reads the tasks of a taskset. A task's content is text that only clients interpret."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import case, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from store.tables import TasksetRow, TasksetTaskRow

_PUT = text("""
    insert into taskset_tasks (taskset_id, name, content, position)
    select
        :taskset_id, t.name, t.content,
        t.place + (select coalesce(max(position), 0) from taskset_tasks where taskset_id = :taskset_id)
    from unnest(cast(:names as text[]), cast(:contents as text[])) with ordinality as t (name, content, place)
    on conflict (taskset_id, name) do update set content = excluded.content
    where taskset_tasks.content <> excluded.content
    returning xmax = 0
""")


@dataclass(frozen=True, slots=True)
class Put:
    """What an upload changed. Tasks that were there with the same content are in neither count."""

    num_created: int
    num_updated: int


async def make_taskset(session: AsyncSession, team_id: UUID, name: str) -> TasksetRow | None:
    """A new taskset; None where the team has one of that name."""
    row = insert(TasksetRow).values(team_id=team_id, name=name).on_conflict_do_nothing().returning(TasksetRow)
    return (await session.scalars(row)).one_or_none()


async def find_taskset(
    session: AsyncSession, team_id: UUID, taskset_id: UUID, *, lock: bool = False
) -> TasksetRow | None:
    """The team's taskset of that id. lock: nobody else changes it until the transaction ends."""
    query = select(TasksetRow).where(TasksetRow.team_id == team_id, TasksetRow.id == taskset_id)
    return await session.scalar(query.with_for_update() if lock else query)


async def find_taskset_named(
    session: AsyncSession, team_id: UUID, name: str, *, lock: bool = False
) -> TasksetRow | None:
    """The team's taskset of that name."""
    query = select(TasksetRow).where(TasksetRow.team_id == team_id, TasksetRow.name == name)
    return await session.scalar(query.with_for_update() if lock else query)


async def put_tasks(session: AsyncSession, taskset: TasksetRow, tasks: Sequence[tuple[str, str]]) -> Put:
    """Tasks as (name, content), no name twice, behind those that are there; of the same name: in their place.

    The taskset must be locked. Its counts are those after the upload.
    """
    names, contents = [name for name, _ in tasks], [content for _, content in tasks]
    asked = {"taskset_id": taskset.id, "names": names, "contents": contents}
    created = (await session.scalars(_PUT, asked)).all()
    await _count(session, taskset)
    return Put(sum(created), len(created) - sum(created))


async def remove_task(session: AsyncSession, taskset: TasksetRow, name: str) -> bool:
    """Whether there was one of that name. The taskset must be locked."""
    mine = TasksetTaskRow.taskset_id == taskset.id, TasksetTaskRow.name == name
    removed = (await session.scalars(delete(TasksetTaskRow).where(*mine).returning(TasksetTaskRow.name))).all()
    await _count(session, taskset)
    return bool(removed)


async def contents_of(session: AsyncSession, taskset_id: UUID) -> Sequence[str]:
    """Contents of all tasks, in order."""
    query = select(TasksetTaskRow.content).where(TasksetTaskRow.taskset_id == taskset_id)
    return (await session.scalars(query.order_by(TasksetTaskRow.position, TasksetTaskRow.name))).all()


async def tasks_after(
    session: AsyncSession, taskset_id: UUID, after: int, limit: int, most_bytes: int
) -> Sequence[tuple[str, int, str | None, int]]:
    """Tasks behind that position, in order: name, position, content (None: of more than `most_bytes`), its bytes."""
    num_bytes = func.octet_length(TasksetTaskRow.content)
    content = case((num_bytes <= most_bytes, TasksetTaskRow.content))
    query = select(TasksetTaskRow.name, TasksetTaskRow.position, content, num_bytes)
    mine = TasksetTaskRow.taskset_id == taskset_id, TasksetTaskRow.position > after
    rows = await session.execute(query.where(*mine).order_by(TasksetTaskRow.position).limit(limit))
    return [(name, position, text, size) for name, position, text, size in rows]


async def content_of(session: AsyncSession, taskset_id: UUID, name: str) -> str | None:
    """One task's content; None: there is no task of that name."""
    mine = TasksetTaskRow.taskset_id == taskset_id, TasksetTaskRow.name == name
    return await session.scalar(select(TasksetTaskRow.content).where(*mine))


async def _count(session: AsyncSession, taskset: TasksetRow) -> None:
    sizes = select(func.count(), func.coalesce(func.sum(func.octet_length(TasksetTaskRow.content)), 0))
    taskset.num_tasks, num_bytes = (await session.execute(sizes.where(TasksetTaskRow.taskset_id == taskset.id))).one()
    taskset.num_bytes = int(num_bytes)
    taskset.updated_at = (await session.execute(select(func.clock_timestamp()))).scalar_one()
