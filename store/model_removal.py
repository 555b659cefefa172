"""Takes a model out of the catalog. Its row and its nodes stay, since rollouts, runs and the log name them.

Its nodes lose their files with the next collection, except those from which models that are there began: these keep
theirs until the last such model is removed as well (`store.retention.removed_models`).
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from store.notify import ADAPTERS_CHANGED, OPERATION_DONE, notify_async
from store.operation_kinds import GRADIENTS, is_any
from store.tables import ModelRow
from wire.errors import Conflict, Superseded

# ruff: noqa: S608 - put together from constants

NEEDED = """
    exists (
        select from checkpoints r
        where r.files_id = c.id and r.files_id <> r.id and r.model_id <> c.model_id
            and r.status = 'committed' and r.files_removed_at is null
    )
"""
"""SQL: a root of another model has the files of the node `c`."""

_IS_RUNNING = "select exists (select from operations where model_id = :model_id and state = 'running')"
_LOCK_OPERATIONS = "select id from operations where model_id = :model_id and state in ('held', 'queued') for update"
_SUPERSEDE = f"""
    update operations o set state = 'superseded', error_code = '{Superseded.code}',
        error_message = 'the model was deleted before this was carried out'
    where o.model_id = :model_id and (
        o.state in ('held', 'queued')
        or (o.state = 'done' and o.consumed_by_id is null and {is_any("o.kind", GRADIENTS)})
    )
    returning o.id
"""

_LOCK_NODES = "select id from checkpoints where model_id = :model_id order by id for update"
_DROP_FILES = f"""
    update checkpoints c
    set files_id = c.id, files_model_id = c.model_id,
        files_removed_at = coalesce(c.files_removed_at, clock_timestamp()),
        state_removed_at = coalesce(c.state_removed_at, clock_timestamp())
    where c.model_id = :model_id and not {NEEDED}
"""
_CHECKED = "set guard_checked_at = clock_timestamp() where model_id = :model_id and guard_checked_at is null"
_NOTED = (
    f"update checkpoints {_CHECKED}",
    f"update evals {_CHECKED}",
    "delete from alarms where model_id = :model_id",
    "delete from guards where model_id = :model_id",
    "delete from checkpoint_names where model_id = :model_id",
    "delete from adapter_wants w using checkpoints c where c.id = w.checkpoint_id and c.model_id = :model_id",
)
_REMOVE = """
    update models
    set removed_at = clock_timestamp(), slug = :slug, name = :slug, head_version = head_version + 1,
        head_checkpoint_id = null, served_checkpoint_id = null
    where id = :model_id
"""


async def remove_model(session: AsyncSession, model: ModelRow) -> None:
    """Remove it; its row is locked for update. Calls that wait are superseded, and whoever waits for one is notified.

    Its slug is free for another, and goes on in lists of what it did, with its id. Raises Conflict while a trainer
    carries out one of its calls.
    """
    this = {"model_id": model.id}
    await session.execute(text(_LOCK_OPERATIONS), this)
    if await session.scalar(text(_IS_RUNNING), this):
        raise Conflict(f"a training call of {model.slug!r} is being carried out; delete the model when it has ended")
    for operation_id in await session.scalars(text(_SUPERSEDE), this):
        await notify_async(session, OPERATION_DONE, operation_id.hex)
    await session.execute(text(_LOCK_NODES), this)
    await session.execute(
        text(_DROP_FILES), this
    )  # in a statement of its own, which sees the forks of whoever held a lock
    for statement in _NOTED:
        await session.execute(text(statement), this)
    await session.execute(text(_REMOVE), {**this, "slug": f"{model.slug} (deleted {model.id.hex[:8]})"})
    if model.base_id is not None:
        await notify_async(session, ADAPTERS_CHANGED, model.base_id.hex)
