"""Giving a run that was just made the weights of a checkpoint, as its first request: how older clients resume.

Nothing has been computed for the run yet, so that this is done when the request comes, in one transaction: the
checkpoint becomes the root of the run's tree, and the operation is in the log as one that is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.forks import take_over
from server.checkpoint_names.resolving import resolve_path
from server.training.admission import TrainedModel
from server.training.collaborators import Training
from server.training.sequenced import check_number, refuse_in_order
from store.oplog.client_order import release_numbers
from store.tables import ModelRow, OperationRow
from wire.errors import FINAL, HeadwayError, InvalidRequest, NumberReused
from wire.payload import encode

LOAD = "load"
"""The kind of the operation. No trainer carries it out."""
_FIRST = 1


@dataclass(frozen=True, slots=True)
class Load:
    """A request to load. `digest`: equal for requests that ask for the same."""

    number: int
    path: str
    with_moments: bool
    digest: bytes


async def load_into(training: Training, model: TrainedModel, load: Load) -> UUID:
    """The operation, which is done, or failed with what is wrong. Raises NumberReused, and troubles that pass."""
    check_number(load.number)
    try:
        async with training.database.session() as session:
            operation_id = await _load(session, model, load)
    except NumberReused:
        raise
    except HeadwayError as error:
        if error.tries != FINAL:
            raise
        return await refuse_in_order(training, model, load.number, LOAD, load.digest, error)
    async with training.database.connection() as connection:
        await release_numbers(connection, model.id)
    return operation_id


async def _load(session: AsyncSession, model: TrainedModel, load: Load) -> UUID:
    run = await session.get_one(ModelRow, model.id, with_for_update={"key_share": True})
    same = OperationRow.model_id == run.id, OperationRow.client_sequence == load.number
    known = await session.scalar(select(OperationRow).where(*same))
    if known is not None:
        if known.request_digest != load.digest:
            raise NumberReused(f"another request was sent before as number {load.number}; every request needs its own")
        return known.id
    if load.number != _FIRST or run.next_client_sequence != _FIRST or run.head_checkpoint_id is not None:
        raise InvalidRequest("weights can be loaded into a run by its first request alone; make another run for them")
    found = await resolve_path(session, model.caller, load.path, "training")
    _check_shape(run, found.model)
    if load.with_moments and found.checkpoint.state_removed_at is not None:
        raise InvalidRequest(f"the optimizer state of {load.path} was not kept; load it without")
    await take_over(session, run, found.checkpoint, with_moments=load.with_moments)
    run.head_version += 1
    operation = OperationRow(
        model_id=run.id,
        sequence=run.next_sequence,
        client_sequence=load.number,
        kind=LOAD,
        state="done",
        payload=b"",
        head_version=run.head_version,
        request_digest=load.digest,
        result=encode({"path": load.path}),
        finished_at=func.clock_timestamp(),
    )
    run.next_sequence, run.next_client_sequence = run.next_sequence + 1, load.number + 1
    session.add(operation)
    await session.flush()
    return operation.id


def _check_shape(run: ModelRow, source: ModelRow) -> None:
    if run.base_id != source.base_id:
        raise InvalidRequest("these weights are of another base model than the run")
    for name, value in (source.lora or {}).items():
        own = (run.lora or {}).get(name)
        if name != "init_seed" and own != value:
            raise InvalidRequest(f"these weights have a LoRA with {name} {value}, and the run has {own}")
