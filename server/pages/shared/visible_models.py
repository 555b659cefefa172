"""The models that a visitor sees, by id or name."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog import repository
from server.catalog.bases import untrained
from server.catalog.service import no_such_model
from server.pages.shared.sessions import Visitor
from store.tables import ModelRow
from wire.errors import Forbidden


async def find_model(session: AsyncSession, visitor: Visitor, model_id: str) -> tuple[ModelRow, ModelRow | None]:
    """The model that the visitor's team sees under this id or name, and its base.

    Raises NotFound, and Forbidden where the visitor's key is for other models.
    """
    found = await repository.find_model(session, visitor.caller.team_id, model_id)
    if found is None:
        raise no_such_model(model_id)
    visitor.caller.require_model(found[0].id, found[0].slug)
    return found[0], found[1]


async def find_fork(session: AsyncSession, visitor: Visitor, model_id: str) -> tuple[ModelRow, ModelRow]:
    """A model that is trained, and its base. Raises as `find_model`, and Forbidden for a base."""
    model, base = await find_model(session, visitor, model_id)
    if base is None:
        raise Forbidden(f"{model.slug!r} is {untrained(model)}, whose weights do not change; fork a base first")
    return model, base
