"""Training by trace id: recorded rollouts become the very inputs that the client would have sent inline."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from uuid import UUID

from server.catalog.repository import as_uuid
from server.context import Context
from server.evals.service import evaluation_traces
from server.protocols.hud.training.schemas import ForwardRequest, ResolvedInput, SampleInput, TrainingInput
from server.rollouts.visibility import hidden_traces
from server.training.admission import TrainedModel
from store.rollouts import RecordedSample, Resolved, TraceFacts, count_tokens, resolve
from store.rollouts.lineage import Lineage, find_lineage
from store.rollouts.spans import MALFORMED_SAMPLE, PROMPT_CHUNKS
from wire.errors import Forbidden, InvalidRequest, TooLarge

RequestT = TypeVar("RequestT", bound=ForwardRequest)

_NOT_RECORDED = "samples_not_recorded"


@dataclass(frozen=True, slots=True)
class RecordedInputs(Generic[RequestT]):
    """A request with recorded rollouts in the place of their ids.

    `num_bytes`: of what stood for ids. `figures`: metrics of how old the samples are. Both empty where all came inline.
    """

    request: RequestT
    num_bytes: int = 0
    figures: dict[str, float] = field(default_factory=dict[str, float])


async def resolve_inputs(context: Context, model: TrainedModel, body: RequestT) -> RecordedInputs[RequestT]:
    """The request with recorded rollouts in the place of their ids, in the order in which they were named.

    Raises InvalidRequest with one sentence for each reason why a rollout cannot be trained on, TooLarge when the
    rollouts have more tokens than a batch may have, Forbidden for a rollout that the key does not see.
    """
    ids = {index: _trace_id(index, item) for index, item in enumerate(body.inputs) if isinstance(item, str)}
    if not ids:
        return RecordedInputs(body)
    await _refuse_hidden(context, model, ids)
    max_tokens = context.settings.limits.batch_tokens
    async with context.database.connection() as connection:
        counts = await count_tokens(connection, model.team_id, ids.values())
    num_tokens = sum(counts.get(trace_id, 0) for trace_id in ids.values())
    if num_tokens > max_tokens:
        raise TooLarge(
            f"the recorded rollouts of this batch have {num_tokens} tokens, more than the {max_tokens} that this "
            "server takes at once; send it in smaller batches (gradients accumulate over calls)"
        )
    await _refuse_evaluations(context, model, ids)
    found = await resolve(context.database, context.blobs, model.team_id, ids.values())
    for index, trace_id in ids.items():
        _check_trainable(_named(index, trace_id), found.get(trace_id))
    lineage = await _lineage(context, model, found.values())
    ages = [
        age
        for index, trace_id in ids.items()
        for age in _ages(_named(index, trace_id), found[trace_id], model, lineage, body.max_staleness)
    ]
    inputs: list[TrainingInput] = list(body.inputs)
    for index, trace_id in ids.items():
        inputs[index] = _as_input(found[trace_id])
    return RecordedInputs(body.model_copy(update={"inputs": inputs}), 4 * num_tokens, _figures(ages))


async def _refuse_hidden(context: Context, model: TrainedModel, ids: dict[int, UUID]) -> None:
    """Raises Forbidden where the key is for some models, for the first rollout that is of none of them."""
    model_ids = model.admission.key.model_ids
    if model_ids is None:
        return
    hidden = await hidden_traces(context.database, model.team_id, model_ids, ids.values())
    for index, trace_id in ids.items():
        if trace_id in hidden:
            raise Forbidden(f"{_named(index, trace_id)} is of none of the models that this key is for")


async def _refuse_evaluations(context: Context, model: TrainedModel, ids: dict[int, UUID]) -> None:
    """Raises InvalidRequest for the first rollout of an evaluation: trained on, it would hold nothing out any more."""
    async with context.database.session() as session:
        found = await evaluation_traces(session, model.team_id, model.id, list(ids.values()))
    for index, trace_id in ids.items():
        if trace_id in found:
            raise InvalidRequest(
                f"{_named(index, trace_id)} belongs to an evaluation (job {found[trace_id][:100]!r}), which is held "
                'out from training; if it is none, POST {"evaluation": false} to /v2/jobs/<job id>/evaluation'
            )


def _trace_id(index: int, text: str) -> UUID:
    trace_id = as_uuid(text)
    if trace_id is None:
        shown = text if len(text) <= 64 else text[:64] + "…"
        raise InvalidRequest(f"input {index} is {shown!r}, which is no trace id: 32 hex digits, or a UUID with dashes")
    return trace_id


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
    odd = {MALFORMED_SAMPLE, PROMPT_CHUNKS, *(() if found.is_reported else (_NOT_RECORDED,))}.intersection(
        found.trace.flags
    )
    if odd:
        return f"has turns whose tokens are not on record ({', '.join(sorted(odd))}); leave it out, or send it inline"
    if not found.samples:
        return (
            "has no token samples: its sampling failed, or it was not sampled through this server; leave it out "
            "(the SDK sends a bare trace id for a run whose sampling failed)"
        )
    return None


async def _lineage(context: Context, model: TrainedModel, resolved: Collection[Resolved]) -> Lineage:
    samples = [sample for one in resolved for sample in one.samples]
    models = {sample.model_id for sample in samples} | {one.trace.model_id for one in resolved}
    async with context.database.connection() as connection:
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


def _as_input(found: Resolved) -> ResolvedInput:
    trajectory = found.trajectory()
    samples = [
        SampleInput.model_construct(
            prompt_token_ids=turn.prompt_ids,
            prompt_chunks=None,
            output_token_ids=turn.output_ids,
            output_logprobs=turn.sampling_logprobs,
        )
        for turn in trajectory.turns
    ]
    return ResolvedInput.model_construct(samples=samples, reward=trajectory.reward, trace_id=trajectory.trace_id)


def _figures(ages: list[int | None]) -> dict[str, float]:
    """Of all samples whose checkpoint is on record; those of other models have no staleness, and are off-policy."""
    known = [age for age in ages if age is not None]
    figures = {"off_policy_samples:sum": float(sum(age != 0 for age in ages))}
    if known:
        figures["staleness:mean"] = sum(known) / len(known)
        figures["staleness:max"] = float(max(known))
    return figures
