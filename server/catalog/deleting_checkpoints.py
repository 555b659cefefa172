"""Deletes a checkpoint that nothing needs: its files go with the next collection, and the node stays as history."""

from __future__ import annotations

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of, record
from server.catalog.changing import own_model
from server.catalog.service import get_node
from server.catalog.types import CheckpointDeleted
from server.principals.callers import Caller
from store.run_states import IS_LIVE
from store.tables import CheckpointRow, ModelRow
from wire.errors import Conflict, Gone

# ruff: noqa: S608 - put together from constants

_NEEDED_BY = text(f"""
    select 'the name ' || n.kind || '/' || n.name || ' stands for it' from checkpoint_names n
        where n.checkpoint_id = :id and (n.expires_at is null or n.expires_at > clock_timestamp())
    union all
    select case when m.team_id = :team_id then 'the model ' || m.slug else 'another team''s model' end || ' began at it'
        from checkpoints r join models m on m.id = r.model_id
        where r.files_id = :id and r.files_id <> r.id and r.status = 'committed' and r.files_removed_at is null
    union all
    select 'the checkpoint ' || u.name || ' has no files yet and is computed from it' from checkpoints u
        where u.model_id = :model_id and u.parent_id = :id and u.status = 'committed' and not u.is_saved
            and u.files_removed_at is null
    union all
    select 'the run ' || r.id || ' is ' || r.state || ' and uses it' from runs r
        where {IS_LIVE} and :id in (r.start_checkpoint_id, r.checkpoint_id, r.best_checkpoint_id)
    union all
    select 'samplers hold it for requests until ' || to_char(w.until at time zone 'UTC', 'HH24:MI:SS') || ' UTC'
        from adapter_wants w where w.checkpoint_id = :id and w.until > clock_timestamp()
    union all
    select 'the sampling session ' || p.id || ' samples it'
        from sampling_sessions p join client_sessions s on s.id = p.session_id
        where p.checkpoint_id = :id and s.finished_at is null
            and s.heartbeat_at > clock_timestamp() - interval '1 day'
    limit 10
""")


async def delete_checkpoint(
    session: AsyncSession, caller: Caller, reference: str, checkpoint_reference: str
) -> CheckpointDeleted:
    """Have its files removed. Raises NotFound, Gone where they were before, and Conflict, which names what needs it."""
    model = await own_model(session, caller, reference)
    found = await get_node(session, model, checkpoint_reference)
    row = await session.get_one(CheckpointRow, found.id, with_for_update=True, populate_existing=True)
    if row.files_removed_at is not None:
        raise Gone(f"the files of {row.name} were removed before; the node is history")
    if needs := await _needs(session, model, row):
        raise Conflict(f"{row.name} is needed: {'; '.join(needs)}")
    row.files_removed_at = (await session.scalars(select(func.clock_timestamp()))).one()
    files = row.manifest.get("files", {}) if row.is_saved else {}
    is_kept = row.state_removed_at is None
    freed = sum(file["size"] for path, file in files.items() if is_kept or not path.startswith("state/"))
    facts = {"checkpoint": row.name, "num_bytes": freed}
    record(session, actor_of(caller), "delete_checkpoint", team_id=model.team_id, subject_id=row.id, **facts)
    await session.flush()
    return CheckpointDeleted(id=str(row.id), name=row.name, num_bytes=freed)


async def _needs(session: AsyncSession, model: ModelRow, row: CheckpointRow) -> list[str]:
    found = list[str]()
    if row.id == model.head_checkpoint_id:
        found.append("it is the head; move the head first")
    elif row.id == model.served_checkpoint_id:
        found.append("the model's name stands for it")
    if row.files_id != row.id:
        found.append("it has the files of the model that this one began from, and none of its own")
    if row.pinned_at is not None:
        found.append("an operator pinned it")
    return found + list(
        await session.scalars(_NEEDED_BY, {"id": row.id, "model_id": model.id, "team_id": model.team_id})
    )
