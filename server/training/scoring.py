"""A forward over one recorded rollout for the sake of its logprobs, which are kept beside the sampler's."""

from __future__ import annotations

import asyncio
import hashlib
import time
from uuid import UUID

from server.catalog.repository import find_model
from server.catalog.service import no_such_model
from server.principals.callers import Caller
from server.rollouts.service import found_trace
from server.rollouts.types import ScoredTrace
from server.training.admission import TrainedModel, trainable_model
from server.training.collaborators import Training
from server.training.operations import submit
from server.training.requests import BatchRequest
from server.training.service import forward
from store.database import AsyncDatabase
from store.rollouts import TraceFacts
from store.rollouts.trainer_logprobs import is_kept
from wire.errors import InvalidRequest, Unavailable

_KEPT_WITHIN_S = 10.0
_LOOK_S = 0.05


async def score_trace(
    training: Training, caller: Caller, trace_id: UUID, reference: str | None, idempotency_key: str | None = None
) -> ScoredTrace:
    """Have the head of a model (None: the one that it was sampled from) go over a rollout, and wait for what it made.

    Like a `forward` over its id: the same rollouts are refused, and its tokens count. Raises NotFound, InvalidRequest,
    Unavailable where the trainer keeps no logprobs, and what a training call raises.
    """
    async with training.database.connection() as connection:
        trace = await found_trace(connection, caller.team_id, trace_id)
    model = await _model(training, caller, trace, reference, idempotency_key)
    try:
        with training.places.taken(model.team_id):
            operation_id = await _forward(training, model, trace_id)
    except InvalidRequest as error:
        raise InvalidRequest(error.message.replace(f"input 0 (trace {trace_id.hex})", "this rollout")) from None
    async with training.shutdown.waiting():
        await _until_kept(training.database, caller.team_id, trace_id, operation_id)
    return ScoredTrace(trace_id=str(trace_id), model_id=str(model.id), operation_id=str(operation_id))


async def _forward(training: Training, model: TrainedModel, trace_id: UUID) -> UUID:
    """The operation, when its result is there."""

    async def batch() -> BatchRequest:
        return BatchRequest([trace_id])

    digest = hashlib.sha256(b"score\0" + trace_id.bytes).digest()
    async with submit(training, model, forward(training, model, digest, batch)) as operation:
        await operation.result()
        return operation.id


async def _model(
    training: Training, caller: Caller, trace: TraceFacts, reference: str | None, idempotency_key: str | None
) -> TrainedModel:
    model_id = trace.model_id
    if reference is not None:
        async with training.database.session() as session:
            found = await find_model(session, caller.team_id, reference)
        if found is None:
            raise no_such_model(reference)
        model_id = found[0].id
    if model_id is None:
        raise InvalidRequest(
            "it is not on record which model this rollout was sampled from; name the one that is to go over it, in "
            '{"model": …}'
        )
    return await trainable_model(training, caller, str(model_id), idempotency_key)


async def _until_kept(database: AsyncDatabase, team_id: UUID, trace_id: UUID, operation_id: UUID) -> None:
    """The trainer writes them soon after its answer."""
    deadline = time.monotonic() + _KEPT_WITHIN_S
    while True:
        async with database.connection() as connection:
            if await is_kept(connection, team_id, trace_id, operation_id):
                return
        if time.monotonic() > deadline:
            raise Unavailable(
                "the trainer went over this rollout, and its logprobs are not on record: does it run with "
                "HEADWAY_KEEP_LOGPROBS=0? If not, try again"
            )
        await asyncio.sleep(_LOOK_S)
