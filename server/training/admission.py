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
from wire.engine import BaseModelInfo
from wire.errors import Forbidden, Unavailable


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model that the caller may train, and what its base and trainer allow."""

    id: UUID
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
    if found.base_slug is None:
        raise Forbidden(f"{found.slug!r} is a base model and cannot be trained; fork it and train the fork")
    if found.info is None or not found.losses:
        raise Unavailable(f"no trainer has loaded the base {found.base_slug!r} yet; start one, then try again")
    return TrainedModel(found.model_id, found.slug, BaseModelInfo(**found.info), found.losses)
