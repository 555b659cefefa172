"""Who may train what. A training call is authenticated here, in the statement that looks its model up."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from server.auth.callers import admitted
from server.auth.roles import Scope
from server.auth.service import key_hash
from server.context import Context
from server.models.pausing import refuse_paused
from server.models.repository import as_uuid
from server.models.service import no_such_model
from server.team.quotas import refuse_full_storage, refuse_spent_tokens
from server.training.checks import Losses
from store.admission import Admission, find_admission
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
    admission: Admission


async def trainable_model(context: Context, key: str | bytes, model_id: str, *, keeps: bool = False) -> TrainedModel:
    """The model of a call that trains it. `key`: or its hash. `keeps`: the call adds to what is stored.

    Raises what `open_model` raises, ModelPaused, and QuotaExceeded.
    """
    model = await open_model(context, key, model_id, "train")
    refuse_paused(model.admission)
    if keeps:
        await refuse_full_storage(context, model.admission)
    else:
        refuse_spent_tokens(model.admission)
    return model


async def open_model(context: Context, key: str | bytes, model_id: str, scope: Scope = "train") -> TrainedModel:
    """The model, which the key's team may train.

    Raises Unauthenticated, NotFound, Forbidden for a base or a key that may not, Unavailable before a worker has
    loaded the base.
    """
    async with context.database.connection() as connection:
        hashed = key if isinstance(key, bytes) else key_hash(key)
        found = await find_admission(connection, hashed, as_uuid(model_id))
    caller = admitted(found.key if found else None)
    assert found is not None, "an unknown key is not admitted"
    context.key_uses.note(caller.key_id)
    caller.require(scope)
    if found.model_id is None or found.slug is None:
        raise no_such_model(model_id)
    caller.require_model(found.model_id, found.slug)
    if found.base_slug is None or found.base_id is None:
        raise Forbidden(f"{found.slug!r} is a base model and cannot be trained; fork it and train the fork")
    if found.info is None or not found.losses:
        raise await _not_loaded(context, found.base_slug)
    info = BaseModelInfo(**found.info)
    return TrainedModel(found.model_id, caller.team_id, found.base_id, found.slug, info, found.losses, found)


async def _not_loaded(context: Context, slug: str) -> Unavailable:
    """The refusal of a base whose facts no trainer has told yet; asks for one, should somebody start them on demand."""
    async with context.database.session() as session:
        (base,) = [supply for supply in await supplies_async(session) if supply.base == slug]
    async with context.database.connection() as connection:
        await want_trainer(connection, base.base_id)
    return Unavailable(f"no trainer has loaded the base {slug!r} yet: {base.shortage}; then try again")
