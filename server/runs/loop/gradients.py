"""What a step is trained on, as training calls: one table, by the run's method."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from server.runs.creating import KL_OPTION
from server.runs.loop.examples import trajectories_of
from server.runs.loop.services import LeasedRun
from server.sampling.targets import find_target
from server.training import service
from server.training.admission import TrainedModel
from server.training.operations import Call
from server.training.requests import BatchRequest
from store.tables import RunStepRow
from wire.engine import LossChoice
from wire.trajectories import Batch


@dataclass(frozen=True, slots=True)
class GradientCall:
    """A call that adds to the step's gradient. `label` tells it from the step's others; `make`: for the model as it
    was admitted."""

    label: str
    make: Callable[[TrainedModel], Call]


def rollout_gradients(leased: LeasedRun, row: RunStepRow) -> list[GradientCall]:
    """The step's groups, by trace id and in order. Groups that lost members are smaller than others, and each size is a
    call of its own: gradients are sums over tokens, and accumulate."""
    by_size = dict[int, list[UUID]]()
    for group in row.chosen["groups"]:
        by_size.setdefault(len(group), []).extend(UUID(hex=trace) for trace in group)
    return [_rollout_call(leased, size, by_size[size]) for size in sorted(by_size, reverse=True)]


def _rollout_call(leased: LeasedRun, size: int, traces: Sequence[UUID]) -> GradientCall:
    config = leased.config
    loss_config = dict(config.loss_fn_config or {})
    if config.kl_coef:
        loss_config[KL_OPTION] = config.kl_coef
    loss = LossChoice(config.loss_fn, loss_config, min(config.num_substeps, len(traces)))

    def make(model: TrainedModel) -> Call:
        async def batch() -> BatchRequest:
            return BatchRequest(traces, size, config.reward_scale, config.max_policy_lag)

        said = [size, [trace.hex for trace in traces], config.reward_scale, config.max_policy_lag, loss.name]
        digest = request_digest([*said, sorted(loss_config.items()), loss.num_substeps])
        return service.forward_backward(leased.services.training, model, digest, batch, loss)

    return GradientCall(f"fb{size}", make)


def example_gradients(leased: LeasedRun, row: RunStepRow) -> list[GradientCall]:
    """The step's examples, all in one call, whose tokens are imitated."""
    config = leased.config
    examples = [leased.tasks[chosen["task"]] for chosen in row.chosen["tasks"]]
    loss = LossChoice(config.loss_fn, dict(config.loss_fn_config or {}), min(config.num_substeps, len(examples)))

    def make(model: TrainedModel) -> Call:
        async def batch() -> BatchRequest:
            sampling = leased.services.sampling
            target = await find_target(sampling, leased.caller, str(leased.model_id))
            trajectories = await trajectories_of(sampling, target, examples)
            return BatchRequest(trajectories, num_bytes=4 * Batch(trajectories).num_tokens)

        said = [[example.slug for example in examples], loss.name, sorted(loss.config.items()), loss.num_substeps]
        return service.forward_backward(leased.services.training, model, request_digest(said), batch, loss)

    return [GradientCall("examples", make)]


def request_digest(said: Any) -> bytes:
    """Equal for calls that ask for the same."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()


GRADIENTS: dict[str, Callable[[LeasedRun, RunStepRow], list[GradientCall]]] = {
    "reinforcement": rollout_gradients,
    "supervised": example_gradients,
}
