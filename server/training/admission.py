"""Who may train what. A training call is authenticated here, in the statement that looks its model up."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from uuid import UUID

from fastapi import Request

from server.auth.callers import admitted
from server.auth.roles import Scope
from server.auth.service import key_hash
from server.catalog.pausing import refuse_paused
from server.catalog.repository import as_reference
from server.catalog.service import no_such_model
from server.context import Context
from server.team.quotas import refuse_full_storage, refuse_spent_tokens
from server.training.checks import Losses
from server.training.idempotency import IDEMPOTENCY_HEADER, idempotency_key
from store.admission import Admission, find_admission
from store.planes.trainer_availability import trainer_availability_async
from store.planes.trainer_starts import want_trainer
from wire.engine import BaseModelInfo
from wire.errors import Forbidden, HeadwayError, Unavailable


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model that the caller may train, and what its base and trainer allow.

    idempotency_key: of the call. refusal: why nothing new is accepted for the model now; a call that repeats another is
    answered all the same.
    """

    id: UUID
    team_id: UUID
    base_id: UUID
    slug: str
    info: BaseModelInfo
    losses: Losses
    admission: Admission
    idempotency_key: str | None = None
    refusal: HeadwayError | None = None


@asynccontextmanager
async def training_call(
    context: Context, key: str, model_id: str, request: Request, *, keeps: bool = False
) -> AsyncGenerator[TrainedModel]:
    """The model of a call that trains it, which has a place among those of this process until the block ends.

    Entered before the body is read. Raises what `trainable_model` raises, or that there is no place.
    """
    model = await trainable_model(context, key, model_id, request, keeps=keeps)
    with context.training_places.taken(model.team_id):
        yield model


async def trainable_model(
    context: Context, key: str | bytes, model_id: str, request: Request, *, keeps: bool = False
) -> TrainedModel:
    """The model of a call that trains it. `key`: or its hash. `keeps`: the call adds to what is stored.

    Raises what `open_model` raises; ModelPaused and QuotaExceeded at once for a call that cannot repeat one that is in
    the log, whose body nobody needs to read. Otherwise they are the model's `refusal`.
    """
    model = await open_model(context, key, model_id, "train", request)
    refusal = await _refusal(context, model.admission, keeps=keeps)
    # A step may repeat one that was answered, and its body is small.
    may_repeat = model.admission.may_repeat or (keeps and model.idempotency_key is None)
    if refusal is not None and not may_repeat:
        raise refusal
    return replace(model, refusal=refusal)


async def _refusal(context: Context, found: Admission, *, keeps: bool) -> HeadwayError | None:
    try:
        refuse_paused(found)
        if keeps:
            await refuse_full_storage(context, found)
        else:
            refuse_spent_tokens(found)
    except HeadwayError as refusal:
        return refusal
    return None


async def open_model(
    context: Context, key: str | bytes, model_id: str, scope: Scope = "train", request: Request | None = None
) -> TrainedModel:
    """The model of that id, slug or name, which the key's team may train. `request`: may carry an Idempotency-Key.

    Raises Unauthenticated, NotFound, Forbidden for a base or a key that may not, Unavailable before a worker has
    loaded the base, InvalidRequest for an Idempotency-Key that is none.
    """
    hashed = key if isinstance(key, bytes) else key_hash(key)
    sent_key = None if request is None else request.headers.get(IDEMPOTENCY_HEADER)
    async with context.database.connection() as connection:
        found = await find_admission(connection, hashed, *as_reference(model_id), sent_key)
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
    checked_key = None if request is None else idempotency_key(request)
    return TrainedModel(
        found.model_id, caller.team_id, found.base_id, found.slug, info, found.losses, found, checked_key
    )


async def _not_loaded(context: Context, slug: str) -> Unavailable:
    """The refusal of a base whose facts no trainer has told yet; asks for one, should somebody start them on demand."""
    async with context.database.session() as session:
        (base,) = [supply for supply in await trainer_availability_async(session) if supply.base == slug]
    async with context.database.connection() as connection:
        await want_trainer(connection, base.base_id)
    return Unavailable(f"no trainer has loaded the base {slug!r} yet: {base.shortage}; then try again")
