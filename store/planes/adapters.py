"""Which adapters samplers shall hold, and which they do.

Samplers are reconciled, not commanded: what they shall hold is a query over the tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from store.database import Connection
from store.notify import ADAPTER_LOADED, ADAPTERS_CHANGED, notify_async
from store.planes.registration import takes_requests
from store.planes.served import SERVED
from store.tables import AdapterWantRow, CheckpointRow, ModelRow, SamplerAdapterRow, SamplerRow
from wire.adapter_names import adapter_name_sql, base_adapter_name


@dataclass(frozen=True, slots=True)
class WantedAdapter:
    """An adapter that every sampler of its base shall hold. No files: the base weights under a name of their own.
    is_reported: the sampler that asked is known to hold it."""

    name: str
    files: tuple[UUID, UUID] | None  # (model, checkpoint) in the checkpoint store
    is_reported: bool


# The base's own; staged ones, for a step waits for them; those that requests asked for, the last first; the newest. A
# sampler that has just started has all of them to load.
_WANTED = f"""
    with wanted as (
        select c.files_model_id, c.files_id, bool_or(c.status = 'staged') as is_staged, max(w.until) as asked_until,
            max(c.created_at) as created_at
        from checkpoints c
        join models m on m.id = c.model_id
        left join adapter_wants w on w.checkpoint_id = c.id and w.until > clock_timestamp()
        where m.base_id = %(base_id)s and (
            c.id = {SERVED} or c.status = 'staged' or w.checkpoint_id is not null
        ) and c.is_saved and not exists (select from samplers where id = %(sampler_id)s and drained_at is not null)
        group by c.files_model_id, c.files_id
    ), named as (
        select %(base)s::text as name, null::uuid as files_model_id, null::uuid as files_id, null as is_staged,
            null as asked_until, null as created_at
        union all
        select {adapter_name_sql("files_id")}, files_model_id, files_id, is_staged, asked_until, created_at from wanted
    )
    select n.name, n.files_model_id, n.files_id, a.adapter is not null as is_reported
    from named n
    left join sampler_adapters a on a.sampler_id = %(sampler_id)s and a.adapter = n.name and a.state = 'loaded'
    order by n.is_staged desc, n.asked_until desc nulls last, n.created_at desc
"""  # noqa: S608 - put together from a constant

# The commit does not wait for the disk: a report that is lost is made again.
_REPORT = """
    with reported as (
        insert into sampler_adapters (sampler_id, adapter, state, error)
        values (%(sampler_id)s, %(adapter)s, %(state)s, %(error)s)
        on conflict (sampler_id, adapter)
        do update set state = excluded.state, error = excluded.error, at = clock_timestamp()
        returning adapter
    )
    select pg_notify(%(channel)s, adapter), set_config('synchronous_commit', 'off', true) from reported
"""


def wanted_adapters(connection: Connection, base_id: UUID, sampler_id: UUID | None = None) -> list[WantedAdapter]:
    """The base itself, and staged, pinned and served checkpoints of its models, the most urgent first; of a sampler
    that is drained, the base alone: what else it holds is unloaded after a while."""
    values = {"base_id": base_id, "sampler_id": sampler_id, "base": base_adapter_name(base_id)}
    rows = connection.execute(_WANTED.encode(), values)
    return [
        WantedAdapter(row.name, (row.files_model_id, row.files_id) if row.files_id else None, row.is_reported)
        for row in rows
    ]


def report_adapter(connection: Connection, sampler_id: UUID, adapter: str, error: str | None) -> None:
    """A sampler loaded an adapter, or could not (and why)."""
    values = {"sampler_id": sampler_id, "adapter": adapter, "state": "failed" if error else "loaded", "error": error}
    connection.execute(_REPORT, {**values, "channel": ADAPTER_LOADED})


def forget_adapter(session: Session, sampler_id: UUID, adapter: str) -> None:
    """A sampler is about to unload an adapter: from this commit on nobody is sent there for it."""
    session.execute(
        delete(SamplerAdapterRow).where(
            SamplerAdapterRow.sampler_id == sampler_id, SamplerAdapterRow.adapter == adapter
        )
    )


async def samplers_holding(session: AsyncSession, base_id: UUID, adapter: str) -> list[SamplerRow]:
    """Live samplers of a base that have this adapter loaded."""
    query = (
        select(SamplerRow)
        .join(SamplerAdapterRow, SamplerAdapterRow.sampler_id == SamplerRow.id)
        .where(SamplerRow.base_id == base_id, takes_requests())
        .where(SamplerAdapterRow.adapter == adapter, SamplerAdapterRow.state == "loaded")
    )
    return list(await session.scalars(query))


async def want_checkpoint(session: AsyncSession, checkpoint_id: UUID, for_s: float) -> None:
    """Have every sampler of the checkpoint's base hold it for a while, whether or not a head points at it."""
    until = func.clock_timestamp() + timedelta(seconds=for_s)
    row = insert(AdapterWantRow).values(checkpoint_id=checkpoint_id, until=until)
    longest = func.greatest(AdapterWantRow.until, row.excluded.until)
    await session.execute(row.on_conflict_do_update(index_elements=["checkpoint_id"], set_={"until": longest}))
    base_of = (
        select(ModelRow.base_id)
        .join(CheckpointRow, CheckpointRow.model_id == ModelRow.id)
        .where(CheckpointRow.id == checkpoint_id)
    )
    base_id = await session.scalar(base_of)
    assert base_id is not None, "checkpoints belong to forks, and forks have a base"
    await notify_async(session, ADAPTERS_CHANGED, base_id.hex)
