"""Names of base models. Clients that know a base from a hub write its id there, and load its tokenizer by that."""

from __future__ import annotations

from sqlalchemy import and_, case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.values.sanitizing import is_storable
from store.tables import ModelRow
from wire.errors import NotFound

_MOST_SHOWN = 200
_MOST_BASES_NAMED = 8


async def base_by_name(session: AsyncSession, name: str) -> ModelRow:
    """The base of this slug, or of these weights at a hub. One whose weights are in a folder also by the id of a hub
    whose last part is the slug. Raises NotFound."""
    wanted = name.lower()
    slug, weights = func.lower(ModelRow.slug), func.lower(ModelRow.weights)
    nearest = case((slug == wanted, 0), (weights == wanted, 1), else_=2)
    of_folder = and_(weights.like("/%"), slug == wanted.rpartition("/")[2])
    query = (
        select(ModelRow)
        .where(ModelRow.weights.is_not(None), or_(slug == wanted, weights == wanted, of_folder))
        .order_by(nearest, ModelRow.created_at)
        .limit(1)
    )
    base = await session.scalar(query) if is_storable(name) else None
    if base is None:
        raise NotFound(f"there is no base model {name[:_MOST_SHOWN]!r}; {await _bases_here(session)}")
    return base


async def _bases_here(session: AsyncSession) -> str:
    oldest = select(ModelRow).where(ModelRow.weights.is_not(None)).order_by(ModelRow.created_at, ModelRow.id)
    bases = (await session.scalars(oldest.limit(_MOST_BASES_NAMED + 1))).all()
    if not bases:
        return "this server has none yet"
    names = ", ".join(repr(public_name(base)) for base in bases[:_MOST_BASES_NAMED])
    more = " and others" if len(bases) > _MOST_BASES_NAMED else ""
    return f"this server has {names}{more} (get_server_capabilities lists them)"


def public_name(base: ModelRow) -> str:
    """Its id at the hub. The slug of one whose weights are in a folder, which means nothing elsewhere."""
    return base.weights if base.weights and is_at_hub(base) else base.slug


def is_at_hub(base: ModelRow) -> bool:
    """Whether its weights were registered by an id, and not by where they lie."""
    weights = base.weights or ""
    return bool(weights) and not weights.startswith((".", "/", "~")) and ":" not in weights


def untrained(model: ModelRow) -> str:
    """What a model without a base is, for a refusal."""
    return "a base model" if model.upstream is None else "another vendor's model"
