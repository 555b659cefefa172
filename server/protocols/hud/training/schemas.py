"""Requests and replies of the training API. Unknown fields are refused everywhere.

Long arrays of numbers never become lists: `server.uploads.json_scanner` cuts them out of the JSON text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import numpy as np
from pydantic import (
    BeforeValidator,
    Discriminator,
    FailFast,
    Field,
    PlainValidator,
    Tag,
    ValidationInfo,
    WithJsonSchema,
)

from server.uploads.json_fields import Closed, Floats, Text, TokenIds
from wire.bounded import FEW_ENTRIES
from wire.prompt_chunks import IMAGE, POINTER, TEXT


def _trajectories(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str) and value in (info.context or {}):
        raise ValueError("must be a list of trajectories, not of numbers")
    return value


def _chunk(value: Any, info: ValidationInfo) -> dict[str, Any]:
    """With what was cut out of it. `wire.prompt_chunks` says what may be in it."""
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    cut: Mapping[str, Any] = info.context or {}
    return {str(name): cut.get(one, one) if isinstance(one, str) else one for name, one in value.items()}


_INTEGERS = {"type": "array", "items": {"type": "integer"}}
_LOCATION = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
_PICTURE = {"format": {"type": "string"}, "expected_tokens": {"type": "integer"}}
_CHUNK: dict[str, Any] = {
    "oneOf": [
        {"type": "object", "properties": {"type": {"const": kind}, **fields}, "required": ["type", *required]}
        for kind, fields, required in (
            (TEXT, {"tokens": _INTEGERS}, ["tokens"]),
            (IMAGE, {"data": {"type": "string", "format": "byte"}, **_PICTURE}, ["data", "format"]),
            (POINTER, {"location": _LOCATION, **_PICTURE}, ["location", "format"]),
        )
    ]
}
PromptChunk: TypeAlias = Annotated[Any, PlainValidator(_chunk), WithJsonSchema(_CHUNK)]


class SampleInput(Closed):
    """One turn: the whole prompt, and what was sampled. With chunks, of which some may be pictures, the prompt's ids
    are not read."""

    prompt_token_ids: TokenIds | None = None
    prompt_chunks: Annotated[list[PromptChunk], Field(fail_fast=True)] | None = None
    output_token_ids: TokenIds
    output_logprobs: Floats = Field(default_factory=lambda: np.zeros(0, np.float32))


class TrajectoryInput(Closed):
    """The turns of one rollout, and its reward."""

    samples: Annotated[list[SampleInput], FailFast(), Field(min_length=1)]
    reward: float
    trace_id: Text | None = None


def _kind_of_input(value: Any) -> str:
    return "trace id" if isinstance(value, str) else "trajectory"


TrainingInput: TypeAlias = Annotated[
    Annotated[Text, Tag("trace id")] | Annotated[TrajectoryInput, Tag("trajectory")], Discriminator(_kind_of_input)
]
TrainingInputs: TypeAlias = Annotated[
    list[TrainingInput], FailFast(), Field(min_length=1), BeforeValidator(_trajectories)
]


class ForwardRequest(Closed):
    """A batch whose per-token logprobs are wanted. (The last field is ours, the SDK does not send it.)"""

    inputs: TrainingInputs
    group_size: int | None = Field(default=None, ge=1)
    reward_scale: float = 1.0
    max_staleness: int | None = Field(default=None, ge=0)
    """Of recorded rollouts: the most optimizer steps that may lie between their samples' checkpoint and the head."""


class ForwardBackwardRequest(ForwardRequest):
    """A batch to be trained on with a built-in loss."""

    loss_fn: Text = "importance_sampling"
    loss_fn_config: Annotated[dict[str, float], FEW_ENTRIES] | None = None
    num_substeps: int = Field(default=1, ge=1)


class BackwardRequest(Closed):
    """Weights −dC/dlogprobs for the datums that a forward returned."""

    forward_id: Text
    weights: Annotated[list[Floats], FailFast()]
    metrics: Annotated[dict[str, float], FEW_ENTRIES] = Field(default_factory=dict)


class OptimStepRequest(Closed):
    """Parameters of one AdamW step. max_grad_norm: the gradient is scaled down to this 2-norm if it is longer."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float | None = None


class Losses(Closed):
    """The names that `loss_fn` may have."""

    losses: list[str]


class GradientPass(Closed):
    """What a forward_backward or backward did."""

    metrics: dict[str, float]
    num_datums: int


class ForwardDatum(Closed):
    """One training sequence of a forward: per-token arrays of one length, as long as its tokens without the first."""

    reward: float
    traj_idx: int
    group_idx: int | None
    logprobs: list[float]
    sampling_logprobs: list[float]
    mask: list[float]


class ForwardPass(Closed):
    """A forward's handle and datums. (Written by `forward_replies` without making these objects.)"""

    forward_id: str
    data: list[ForwardDatum]


LEFT_OUT_HEADER = "Headway-Passes-Left-Out"
"""`store.oplog.lost_answers.LEFT_OUT`: the SDK takes no further field in a step's reply."""


class OptimStep(Closed):
    """The checkpoint that a step made, and the slug under which it is served already."""

    step: int
    checkpoint_id: str
    sampler_path: str
    state_path: str
    model: str
