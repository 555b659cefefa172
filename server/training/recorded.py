"""Training by trace id: recorded rollouts become the very trajectories that a client would have sent inline."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from server.evals.service import evaluation_traces
from server.rollouts.visibility import hidden_traces
from server.training.admission import TrainedModel
from server.training.requests import BatchRequest
from store.blob_stores import BlobStore
from store.database import AsyncDatabase
from store.rollouts import RecordedSample, Resolved, TraceFacts, count_tokens, resolve
from store.rollouts.lineage import Lineage, find_lineage
from store.rollouts.spans import MALFORMED_SAMPLE, PROMPT_CHUNKS, UNKNOWN_PICTURE
from wire.errors import Forbidden, InvalidRequest, TooLarge
from wire.trajectories import Batch

_NOT_RECORDED = "samples_not_recorded"


@dataclass(frozen=True, slots=True)
class ResolvedBatch:
    """A batch with recorded rollouts in the place of their ids.

    `recorded`: these ids, by the place of each in the batch. `num_bytes`: of what it was read from, and of what stood
    for ids. `figures`: metrics of how old the samples are. Empty where all trajectories were sent.
    """

    batch: Batch
    recorded: Mapping[int, UUID]
    num_bytes: int
    figures: Mapping[str, float]


async def resolve_batch(
    database: AsyncDatabase, blobs: BlobStore, model: TrainedModel, request: BatchRequest, max_tokens: int
) -> ResolvedBatch:
    """The batch with recorded rollouts in the place of their ids, in the order in which they were named.

    Raises InvalidRequest with one sentence for each reason why a rollout cannot be trained on, TooLarge when the
    rollouts have more tokens than a batch may have, Forbidden for a rollout that the caller does not see.
    """
    ids = {index: item for index, item in enumerate(request.inputs) if isinstance(item, UUID)}
    found, figures, num_bytes = dict[UUID, Resolved](), dict[str, float](), request.num_bytes
    if ids:
        num_tokens = await _checked_size(database, model, ids, max_tokens)
        await _refuse_evaluations(database, model, ids)
        found = await resolve(database, blobs, model.team_id, ids.values())
        for index, trace_id in ids.items():
            _check_trainable(_named(index, trace_id), found.get(trace_id))
        lineage = await _lineage(database, model, found.values())
        ages = [
            age
            for index, trace_id in ids.items()
            for age in _ages(_named(index, trace_id), found[trace_id], model, lineage, request.max_staleness)
        ]
        figures, num_bytes = _figures(ages), num_bytes + 4 * num_tokens
    trajectories = [found[item].trajectory() if isinstance(item, UUID) else item for item in request.inputs]
    return ResolvedBatch(Batch(trajectories, request.group_size, request.reward_scale), ids, num_bytes, figures)


async def _checked_size(database: AsyncDatabase, model: TrainedModel, ids: Mapping[int, UUID], max_tokens: int) -> int:
    """How many tokens the rollouts have. Raises Forbidden, TooLarge."""
    await _refuse_hidden(database, model, ids)
    async with database.connection() as connection:
        counts = await count_tokens(connection, model.team_id, ids.values())
    num_tokens = sum(counts.get(trace_id, 0) for trace_id in ids.values())
    if num_tokens > max_tokens:
        raise TooLarge(
            f"the recorded rollouts of this batch have {num_tokens} tokens, more than the {max_tokens} that this "
            "server takes at once; send it in smaller batches (gradients accumulate over calls)"
        )
    return num_tokens


async def _refuse_hidden(database: AsyncDatabase, model: TrainedModel, ids: Mapping[int, UUID]) -> None:
    """Raises Forbidden where the key is for some models, for the first rollout that is of none of them."""
    model_ids = model.caller.model_ids
    if model_ids is None:
        return
    hidden = await hidden_traces(database, model.team_id, model_ids, ids.values())
    for index, trace_id in ids.items():
        if trace_id in hidden:
            raise Forbidden(f"{_named(index, trace_id)} is of none of the models that this key is for")


async def _refuse_evaluations(database: AsyncDatabase, model: TrainedModel, ids: Mapping[int, UUID]) -> None:
    """Raises InvalidRequest for the first rollout of an evaluation: trained on, it would hold nothing out any more."""
    async with database.session() as session:
        found = await evaluation_traces(session, model.team_id, model.id, list(ids.values()))
    for index, trace_id in ids.items():
        if trace_id in found:
            raise InvalidRequest(
                f"{_named(index, trace_id)} belongs to an evaluation (job {found[trace_id][:100]!r}), which is held "
                'out from training; if it is none, POST {"evaluation": false} to /v2/jobs/<job id>/evaluation'
            )


def _named(index: int, trace_id: UUID) -> str:
    return f"input {index} (trace {trace_id.hex})"


def _check_trainable(named: str, found: Resolved | None) -> None:
    """Raises InvalidRequest unless the rollout has ended well, with tokens and a reward."""
    if found is None:
        raise InvalidRequest(
            f"{named}: no rollout is on record under this trace id; is telemetry switched on, and is it this team's?"
        )
    trace = found.trace
    if problem := _unfinished(trace) or _ungraded(trace) or _without_tokens(found):
        raise InvalidRequest(f"{named} {problem}")
    if trace.reward is None:
        raise InvalidRequest(f"{named} has no reward: neither its exit nor an evaluate step brought one")


def _unfinished(trace: TraceFacts) -> str | None:
    if trace.timed_out:
        return "fell silent and was closed without an exit; leave its group out, or send it inline with a reward"
    if trace.status == "running":
        return "is still running: train on it when its exit was reported"
    if trace.status == "cancelled":
        return "was cancelled, so its reward says nothing; leave its group out"
    if trace.stop_reason == "timeout":
        return "timed out, so its reward says nothing; leave its group out, or send it inline with a reward of your own"
    return None


def _ungraded(trace: TraceFacts) -> str | None:
    if trace.status == "error":
        why = f" ({trace.error[:200]})" if trace.error else ""
        return f"ended in an error{why}, so its reward says nothing; leave its group out, or send it inline"
    if (trace.evaluation_result or {}).get("isError"):
        return "has no valid grade: its evaluation failed; leave its group out, or send it inline with a reward"
    return None


def _without_tokens(found: Resolved) -> str | None:
    odd = {
        MALFORMED_SAMPLE,
        PROMPT_CHUNKS,
        UNKNOWN_PICTURE,
        *(() if found.is_reported else (_NOT_RECORDED,)),
    }.intersection(found.trace.flags)
    if odd:
        return f"has turns whose tokens are not on record ({', '.join(sorted(odd))}); leave it out, or send it inline"
    if not found.samples:
        return (
            "has no token samples: its sampling failed, or it was not sampled through this server; leave it out "
            "(the SDK sends a bare trace id for a run whose sampling failed)"
        )
    if any(sample.is_of_upstream for sample in found.samples):
        return "was sampled from another vendor's model, whose tokens are not known; nothing can be trained on it"
    return None


async def _lineage(database: AsyncDatabase, model: TrainedModel, resolved: Collection[Resolved]) -> Lineage:
    samples = [sample for one in resolved for sample in one.samples]
    models = {sample.model_id for sample in samples} | {one.trace.model_id for one in resolved}
    async with database.connection() as connection:
        return await find_lineage(
            connection,
            model.id,
            [sample.checkpoint_id for sample in samples if sample.checkpoint_id is not None],
            [model_id for model_id in models if model_id is not None],
        )


def _ages(
    named: str, found: Resolved, model: TrainedModel, lineage: Lineage, max_staleness: int | None
) -> list[int | None]:
    """Staleness of each sample whose checkpoint is on record; None: of another model. Raises InvalidRequest."""
    for model_id in {found.trace.model_id, *(sample.model_id for sample in found.samples)}:
        if model_id is not None and lineage.bases.get(model_id, model.base_id) != model.base_id:
            raise InvalidRequest(
                f"{named} was sampled from another base model, whose tokens mean something else to {model.slug!r}"
            )
    ages = [_age(sample, lineage) for sample in found.samples if sample.served_at is not None]
    if max_staleness is not None:
        _check_age(named, found, ages, max_staleness)
    return ages


def _age(sample: RecordedSample, lineage: Lineage) -> int | None:
    return lineage.staleness(sample.checkpoint_id)


def _check_age(named: str, found: Resolved, ages: list[int | None], max_staleness: int) -> None:
    if len(ages) < len(found.samples) or None in ages:
        raise InvalidRequest(
            f"{named} has samples of which no checkpoint of this model is on record, so max_staleness cannot be held"
        )
    oldest = max(age for age in ages if age is not None)
    if oldest > max_staleness:
        raise InvalidRequest(
            f"{named} was sampled {oldest} steps away from the head, and max_staleness is {max_staleness}; "
            "roll out again, or allow more"
        )


def _figures(ages: list[int | None]) -> dict[str, float]:
    """Of all samples whose checkpoint is on record; those of other models have no staleness, and are off-policy."""
    known = [age for age in ages if age is not None]
    figures = {"off_policy_samples:sum": float(sum(age != 0 for age in ages))}
    if known:
        figures["staleness:mean"] = sum(known) / len(known)
        figures["staleness:max"] = float(max(known))
    return figures
