"""The upstreams of the catalog, as operators add, see and remove them.

From the command line alone, on the server's machine: whoever may choose the address and the file of the key could have
a server send it any file that it can read.
"""

from __future__ import annotations

import uuid

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import Actor, record
from server.catalog.forks import is_free_name
from server.upstreams.types import Upstream, UpstreamEntry
from store.tables import AlarmRow, EvalRow, GuardRow, ModelRow
from wire.errors import Conflict, InvalidRequest, NotFound


async def add_upstream(session: AsyncSession, name: str, upstream: Upstream, actor: Actor) -> UpstreamEntry:
    """Put another vendor's model into the catalog, or change where the one of this name is reached.

    Raises InvalidRequest for a name that no model can have, Conflict where a base model has it.
    """
    if not is_free_name(name):
        raise InvalidRequest(
            f"{name[:200]!r} cannot be the name of a model: 1 to 100 letters, digits, dots, dashes or underscores, "
            "beginning with a letter or digit; and no id, nor the name of an agent type in the SDK ('claude', say)"
        )
    values = upstream.model_dump()
    made = insert(ModelRow).values(id=uuid.uuid4(), slug=name, name=name, upstream=values)
    await session.execute(made.on_conflict_do_nothing())
    row = await session.scalar(_by_name(name).with_for_update())
    if row is None:
        raise Conflict(f"{name!r} is a base model of this server; give the vendor's model another name")
    row.upstream = values
    record(session, actor, "add_upstream", subject_id=row.id, name=row.slug, api=upstream.api, model=upstream.model)
    await session.flush()
    return _entry(row)


async def list_upstreams(session: AsyncSession) -> list[UpstreamEntry]:
    """Every one, oldest first."""
    query = select(ModelRow).where(ModelRow.upstream.is_not(None)).order_by(ModelRow.created_at, ModelRow.id)
    return [_entry(row) for row in await session.scalars(query)]


async def get_upstream(session: AsyncSession, name: str) -> UpstreamEntry:
    """One by name. Raises NotFound."""
    return _entry(await _found(session, name))


async def remove_upstream(session: AsyncSession, name: str, actor: Actor) -> None:
    """Take it out of the catalog, with its held-out scores. Rollouts that it sampled stay. Raises NotFound."""
    row = await _found(session, name)
    for table in (AlarmRow, EvalRow, GuardRow):
        await session.execute(delete(table).where(table.model_id == row.id))
    await session.delete(row)
    record(session, actor, "remove_upstream", subject_id=row.id, name=row.slug)
    await session.flush()


async def _found(session: AsyncSession, name: str) -> ModelRow:
    row = await session.scalar(_by_name(name))
    if row is None:
        raise NotFound(f"there is no upstream {name[:200]!r}; 'headway upstreams list' shows those that there are")
    return row


def _by_name(name: str):
    return select(ModelRow).where(ModelRow.upstream.is_not(None), func.lower(ModelRow.slug) == name.lower())


def _entry(row: ModelRow) -> UpstreamEntry:
    return UpstreamEntry(
        id=row.id, name=row.slug, upstream=Upstream.model_validate(row.upstream), created_at=row.created_at
    )
