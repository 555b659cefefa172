"""Who may train what. A training call is authenticated here, in the statement that looks its model up."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from server.auth.service import key_hash, refuse_key
from server.context import Context
from server.models.repository import as_uuid
from server.models.service import no_such_model
from server.training.checks import Losses
from store.admission import find_admission
from store.supply import supplies_async
from store.trainer_starts import want_trainer
from wire.engine import BaseModelInfo
from wire.errors import Forbidden, Unavailable


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model that the caller may train, and what its base and trainer allow."""

    id: UUID
    team_id: UUID
    base_id: UUID
    slug: str
    info: BaseModelInfo
    losses: Losses


async def open_model(context: Context, key: str, model_id: str) -> TrainedModel:
    """The model, which the key's team may train.

    Raises Unauthenticated, NotFound, Forbidden for a base, Unavailable before a worker has loaded the base.
    """
    async with context.database.connection() as connection:
        found = await find_admission(connection, key_hash(key), as_uuid(model_id))
    if found is None or found.is_revoked:
        raise refuse_key(known=found is not None)
    if found.model_id is None or found.slug is None:
        raise no_such_model(model_id)
    if found.base_slug is None or found.base_id is None:
        raise Forbidden(f"{found.slug!r} is a base model and cannot be trained; fork it and train the fork")
    if found.info is None or not found.losses:
        raise await _not_loaded(context, found.base_slug)
    return TrainedModel(
        found.model_id, found.team_id, found.base_id, found.slug, BaseModelInfo(**found.info), found.losses
    )


async def _not_loaded(context: Context, slug: str) -> Unavailable:
    """The refusal of a base whose facts no trainer has told yet; asks for one, should somebody start them on demand."""
    async with context.database.session() as session:
        (base,) = [supply for supply in await supplies_async(session) if supply.base == slug]
    async with context.database.connection() as connection:
        await want_trainer(connection, base.base_id)
    return Unavailable(f"no trainer has loaded the base {slug!r} yet: {base.shortage}; then try again")
