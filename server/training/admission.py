"""Who may train what. A call that brings a key which nobody has looked up yet is authenticated here, in the statement
that looks its model up."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from uuid import UUID

from server.catalog.model_claims import refuse_run_of_others
from server.catalog.pausing import refuse_paused
from server.catalog.repository import as_reference
from server.catalog.service import no_such_model
from server.principals.callers import Caller, admitted
from server.principals.quotas import refuse_full_storage, refuse_spent_tokens
from server.principals.roles import Scope
from server.training.checks import Losses
from server.training.collaborators import Training
from server.training.idempotency import check_idempotency_key
from store.admission import Admission, find_admission, find_keyed_admission
from store.database import AsyncDatabase
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

    caller: Caller
    id: UUID
    base_id: UUID
    slug: str
    info: BaseModelInfo
    losses: Losses
    admission: Admission
    idempotency_key: str | None = None
    refusal: HeadwayError | None = None

    @property
    def team_id(self) -> UUID:
        """The caller's."""
        return self.caller.team_id


@asynccontextmanager
async def training_call(
    training: Training, who: Caller | bytes, model: str, idempotency_key: str | None = None, *, keeps: bool = False
) -> AsyncGenerator[TrainedModel]:
    """The model of a call that trains it, which has a place among those of this process until the block ends.

    Entered before a batch is read. Raises what `trainable_model` raises, or that there is no place.
    """
    found = await trainable_model(training, who, model, idempotency_key, keeps=keeps)
    with training.places.taken(found.team_id):
        yield found


async def trainable_model(
    training: Training, who: Caller | bytes, model: str, idempotency_key: str | None = None, *, keeps: bool = False
) -> TrainedModel:
    """The model of a call that trains it. `keeps`: the call adds to what is stored.

    Raises what `open_model` raises; ModelPaused and QuotaExceeded at once for a call that cannot repeat one that is in
    the log, whose batch nobody needs to read. Otherwise they are the model's `refusal`.
    """
    found = await open_model(training, who, model, "train", idempotency_key)
    refusal = await refusal_of(training, found, keeps=keeps)
    # A step may repeat one that was answered, and what it sends is small.
    may_repeat = found.admission.may_repeat or (keeps and idempotency_key is None)
    if refusal is not None and not may_repeat:
        raise refusal
    return replace(found, refusal=refusal)


async def refusal_of(training: Training, model: TrainedModel, *, keeps: bool) -> HeadwayError | None:
    """Why nothing new is accepted for the model now: a run of others, a pause, or a quota. `keeps`: the call adds to
    what is stored."""
    try:
        refuse_run_of_others(model.admission, model.caller.run_id)
        refuse_paused(model.admission)
        if keeps:
            await refuse_full_storage(training.database, model.caller, model.admission)
        else:
            refuse_spent_tokens(model.caller, model.admission)
    except HeadwayError as refusal:
        return refusal
    return None


async def open_model(
    training: Training, who: Caller | bytes, model: str, scope: Scope = "train", idempotency_key: str | None = None
) -> TrainedModel:
    """The model of that id, slug or name, which the caller's team may train. `who`: or the hash of the caller's key.

    Raises Unauthenticated, NotFound, Forbidden for a base or a caller who may not, Unavailable before a worker has
    loaded the base, InvalidRequest for an Idempotency-Key that is none.
    """
    caller, found = await _admitted(training, who, model, idempotency_key)
    caller.require(scope)
    opened = await admitted_model(training, caller, found, model, idempotency_key)
    check_idempotency_key(idempotency_key)
    return opened


async def admitted_model(
    training: Training, caller: Caller, found: Admission | None, model: str, idempotency_key: str | None = None
) -> TrainedModel:
    """What was looked up under a name, for a caller who may train. Raises as `open_model`."""
    if found is None or found.model_id is None or found.slug is None:
        raise no_such_model(model)
    caller.require_model(found.model_id, found.slug)
    if found.is_upstream:
        raise Forbidden(f"{found.slug!r} is another vendor's model, which is sampled here and cannot be trained")
    if found.base_slug is None or found.base_id is None:
        raise Forbidden(f"{found.slug!r} is a base model and cannot be trained; fork it and train the fork")
    if found.info is None or not found.losses:
        raise await _not_loaded(training.database, found.base_slug)
    info = BaseModelInfo.read(found.info)
    return TrainedModel(caller, found.model_id, found.base_id, found.slug, info, found.losses, found, idempotency_key)


async def _admitted(
    training: Training, who: Caller | bytes, model: str, idempotency_key: str | None
) -> tuple[Caller, Admission | None]:
    named = as_reference(model)
    async with training.database.connection() as connection:
        if isinstance(who, Caller):
            return who, await find_admission(connection, who.team_id, *named, idempotency_key)
        keyed = await find_keyed_admission(connection, who, *named, idempotency_key)
    caller = admitted(keyed[0] if keyed else None)
    assert keyed is not None, "an unknown key is not admitted"
    training.key_uses.note(caller.key_id)
    return caller, keyed[1]


async def _not_loaded(database: AsyncDatabase, slug: str) -> Unavailable:
    """The refusal of a base whose facts no trainer has reported yet; asks for one, should somebody start them on
    demand."""
    async with database.session() as session:
        (base,) = [supply for supply in await trainer_availability_async(session) if supply.base == slug]
    async with database.connection() as connection:
        await want_trainer(connection, base.base_id)
    return Unavailable(f"no trainer has loaded the base {slug!r} yet: {base.shortage}; then try again")
