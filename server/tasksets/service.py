"""Tasksets: made, filled, read and removed. A name is a team's own; another team's taskset is not found."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of, record
from server.catalog.repository import as_uuid
from server.principals.callers import Caller
from server.tasksets.deployed_tasks import refuse_misfits
from server.tasksets.types import TaskRemoved, Taskset, TasksetDeleted, TasksetName, UploadDone
from server.tasksets.uploads import MAX_TASKS, MAX_TASKSET_BYTES, Upload
from server.values.paging import Page, page_of
from server.values.sanitizing import is_storable
from store.tables import TasksetRow
from store.tasksets import contents_of, find_taskset, find_taskset_named, make_taskset, put_tasks, remove_task
from wire.errors import Conflict, InvalidRequest, NotFound, TooLarge

_MAX_NAME = 200


async def list_tasksets(session: AsyncSession, caller: Caller, cursor: str | None, limit: int) -> Page[Taskset]:
    """The team's tasksets, newest first. Raises InvalidRequest for a cursor that is none."""
    query = select(TasksetRow).where(TasksetRow.team_id == caller.team_id)
    place = TasksetRow.created_at, TasksetRow.id
    rows, following = await page_of(session, query, place, cursor, limit, newest_first=True)
    return Page(items=[describe(row, caller) for (row,) in rows], next_cursor=following)


async def get_taskset(session: AsyncSession, caller: Caller, taskset_id: UUID) -> Taskset:
    """Raises NotFound."""
    return describe(await _found(session, caller, taskset_id), caller)


async def named(session: AsyncSession, caller: Caller, name: str) -> TasksetName:
    """What the name means. Raises NotFound."""
    row = await find_taskset_named(session, caller.team_id, name) if is_storable(name) else None
    if row is None:
        raise NotFound(f"the team has no taskset named {name[:_MAX_NAME]!r}; 'hud sync tasks NAME' makes one")
    return TasksetName(taskset_id=str(row.id), name=row.name)


async def create(session: AsyncSession, caller: Caller, name: str) -> Taskset:
    """An empty taskset. Raises InvalidRequest for a name that is none, Conflict for one that is taken."""
    row = await _made(session, caller, name)
    if row is None:
        raise Conflict(f"the team has a taskset named {name!r} already; upload tasks to it, or delete it first")
    return describe(row, caller)


async def upload(session: AsyncSession, caller: Caller, request: Upload) -> UploadDone:
    """Add tasks, or replace those of the same name; the taskset is made where there is none of that name.

    Raises NotFound for an id that the team has not, TooLarge for a taskset that would outgrow the bounds,
    InvalidRequest for a task that its environment, which is deployed here, does not have or take.
    """
    await refuse_misfits(session, caller.team_id, request)
    row = await _locked(session, caller, request)
    put = await put_tasks(session, row, request.tasks)
    if row.num_tasks > MAX_TASKS or row.num_bytes > MAX_TASKSET_BYTES:
        raise TooLarge(
            f"the taskset {row.name!r} would have {row.num_tasks} tasks in {row.num_bytes} bytes; at most {MAX_TASKS} "
            f"in {MAX_TASKSET_BYTES} are possible: put the rest into another one"
        )
    changed = put.num_created + put.num_updated
    if changed:
        counts = {"tasks_created": put.num_created, "tasks_updated": put.num_updated}
        record(session, actor_of(caller), "upload_tasks", team_id=caller.team_id, subject_id=row.id, **counts)
    return UploadDone(
        taskset_id=str(row.id),
        tasks_created=put.num_created,
        tasks_updated=put.num_updated,
        tasks_unchanged=len(request.tasks) - changed,
    )


async def export(session: AsyncSession, caller: Caller, taskset_id: UUID) -> tuple[str, list[str]]:
    """The taskset's name and the contents of its tasks. Raises NotFound."""
    row = await _found(session, caller, taskset_id)
    return row.name, list(await contents_of(session, row.id))


async def remove(session: AsyncSession, caller: Caller, taskset_id: UUID, name: str) -> TaskRemoved:
    """Remove one task. Raises NotFound."""
    row = await _found(session, caller, taskset_id, lock=True)
    if not is_storable(name) or not await remove_task(session, row, name):
        raise NotFound(f"the taskset {row.name!r} has no task named {name[:_MAX_NAME]!r}")
    record(session, actor_of(caller), "remove_task", team_id=caller.team_id, subject_id=row.id, task=name)
    return TaskRemoved(taskset_id=str(row.id), num_tasks=row.num_tasks)


async def delete(session: AsyncSession, caller: Caller, taskset_id: UUID) -> TasksetDeleted:
    """Delete a taskset with its tasks. Jobs that ran over it stay. Raises NotFound."""
    row = await _found(session, caller, taskset_id, lock=True)
    counts = {"name": row.name, "tasks_deleted": row.num_tasks}
    record(session, actor_of(caller), "delete_taskset", team_id=caller.team_id, subject_id=row.id, **counts)
    await session.delete(row)
    return TasksetDeleted(tasks_deleted=row.num_tasks)


def describe(row: TasksetRow, caller: Caller) -> Taskset:
    """As clients see it."""
    return Taskset(
        id=row.id,
        name=row.name,
        project_id=row.team_id,
        can_edit="train" in caller.scopes,
        num_tasks=row.num_tasks,
        num_bytes=row.num_bytes,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


async def _locked(session: AsyncSession, caller: Caller, request: Upload) -> TasksetRow:
    if request.taskset_id is not None:
        return await _found(session, caller, request.taskset_id, lock=True)
    if request.taskset_name is None:
        raise InvalidRequest("taskset_name is missing; say which taskset, by name or by taskset_id")
    made = await _made(session, caller, request.taskset_name)
    row = made or await find_taskset_named(session, caller.team_id, request.taskset_name, lock=True)
    if row is None:
        raise Conflict(f"the taskset {request.taskset_name!r} was deleted at this moment; upload it again")
    return row


async def _made(session: AsyncSession, caller: Caller, name: str) -> TasksetRow | None:
    """A new taskset; None where the team has one of that name."""
    _check_name(name)
    row = await make_taskset(session, caller.team_id, name)
    if row is not None:
        record(session, actor_of(caller), "create_taskset", team_id=caller.team_id, subject_id=row.id, name=name)
    return row


async def _found(session: AsyncSession, caller: Caller, taskset_id: UUID, *, lock: bool = False) -> TasksetRow:
    row = await find_taskset(session, caller.team_id, taskset_id, lock=lock)
    if row is None:
        raise NotFound(
            f"there is no taskset {taskset_id}: it may have been deleted; name another, and if .hud/config.json holds "
            "this id, delete that file"
        )
    return row


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > _MAX_NAME or not name.isprintable() or name in (".", ".."):
        raise InvalidRequest(
            f"a taskset's name has 1 to {_MAX_NAME} printable characters, not only spaces or dots: choose another"
        )
    if as_uuid(name) is not None:
        raise InvalidRequest(f"{name} reads as an id, and clients take it for one: choose another name for the taskset")
