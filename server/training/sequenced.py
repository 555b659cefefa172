"""Calls of clients that number them: an operation is logged under its number, and its answer is fetched later.

A repetition under the same number is the same operation, whatever has become of it. What the request itself makes
impossible is no refusal of the call: it is in the log as an operation that has failed, for the client goes on counting.
"""

from __future__ import annotations

from uuid import UUID

from server.training.admission import TrainedModel
from server.training.collaborators import Training
from server.training.operations import Call, Prepared, placed_or_refused
from server.values.sanitizing import storable_text
from store.oplog.append import PlacedPayload
from store.oplog.client_order import LARGEST_NUMBER, append_in_order, operation_of_number
from wire.errors import FINAL, HeadwayError, InvalidRequest, ModelNotFound, NumberReused

_NOTHING = PlacedPayload(payload=b"", payload_blob=None)
_LONGEST = 2000


async def submit_in_order(training: Training, model: TrainedModel, client_sequence: int, call: Call) -> UUID:
    """The operation of this number, which is in the log, durably, when this returns; a repetition's is the first one's.

    What the request or the model's state makes impossible (an error of `call.prepare` that is final, or the model's
    refusal) fails the operation. Raises NumberReused for another request under a used number, and troubles that pass:
    the client sends the same again.
    """
    check_number(client_sequence)
    if (found_id := await _find(training, model.id, client_sequence, call.digest)) is not None:
        return found_id
    if model.refusal is not None:
        return await _refuse(training, model.id, client_sequence, call.kind, call.digest, model.refusal)
    try:
        prepared = await call.prepare()
    except HeadwayError as error:
        if error.tries != FINAL:
            raise
        return await _refuse(training, model.id, client_sequence, call.kind, call.digest, error)
    return await _append(training, model.id, client_sequence, call, prepared)


async def refuse_in_order(
    training: Training, model: TrainedModel, client_sequence: int, kind: str, digest: bytes, error: HeadwayError
) -> UUID:
    """The operation of this number, which fails with this error, unless it is a repetition of one that is in the log.

    For what is found out before there is a `Call`. Raises as `submit_in_order`.
    """
    check_number(client_sequence)
    if (found_id := await _find(training, model.id, client_sequence, digest)) is not None:
        return found_id
    return await _refuse(training, model.id, client_sequence, kind, digest, error)


def check_number(client_sequence: int) -> None:
    """Raises InvalidRequest for what counts nothing."""
    if not 1 <= client_sequence <= LARGEST_NUMBER:
        raise InvalidRequest(f"the number of a request is {client_sequence}; they go from 1 to {LARGEST_NUMBER}")


async def _find(training: Training, model_id: UUID, client_sequence: int, digest: bytes) -> UUID | None:
    async with training.database.connection() as connection:
        known = await operation_of_number(connection, model_id, client_sequence)
    if known is None:
        return None
    if known.request_digest != digest:
        raise NumberReused(f"another request was sent before as number {client_sequence}; every request needs its own")
    return known.id


async def _append(training: Training, model_id: UUID, client_sequence: int, call: Call, prepared: Prepared) -> UUID:
    placed = await placed_or_refused(training.blobs, prepared.payload)
    async with training.database.connection() as connection:
        appended_id = await append_in_order(
            connection,
            model_id=model_id,
            client_sequence=client_sequence,
            kind=call.kind,
            request_digest=call.digest,
            placed=placed,
            forward_id=prepared.forward_id,
            num_tokens=prepared.num_tokens,
        )
    return appended_id or await _racing(training, model_id, client_sequence, call.digest)


async def _refuse(
    training: Training, model_id: UUID, client_sequence: int, kind: str, digest: bytes, error: HeadwayError
) -> UUID:
    error.message = storable_text(error.message)[:_LONGEST]  # it may name what the client sent
    async with training.database.connection() as connection:
        refused_id = await append_in_order(
            connection,
            model_id=model_id,
            client_sequence=client_sequence,
            kind=kind,
            request_digest=digest,
            placed=_NOTHING,
            refusal=error,
        )
    return refused_id or await _racing(training, model_id, client_sequence, digest)


async def _racing(training: Training, model_id: UUID, client_sequence: int, digest: bytes) -> UUID:
    """The operation of the call that came first."""
    if (found_id := await _find(training, model_id, client_sequence, digest)) is None:
        raise ModelNotFound("the model of this request is not there any more")
    return found_id
