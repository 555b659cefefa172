"""Rollouts as HUD's SDK, or this service's own routes, send and read them beyond the core's own types."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from server.rollouts.types import Trace


class TelemetryUpload(BaseModel):
    """Spans, kept as they come."""

    telemetry: list[dict[str, Any]]


class TrainerDifference(BaseModel):
    """Over the tokens whose logprobs of sampler and trainer are both on record, in nats. `kl_k3`: KL(sampler ‖
    trainer) a token, as k3 estimates it."""

    num_tokens: int
    mean_abs_difference: float
    max_abs_difference: float
    kl_k3: float


class TraceDetail(Trace):
    """A rollout with its samples (`server.rollouts.details`, which writes the JSON without making these objects).

    `trainer_difference`: how far the trainer's logprobs of its turns are from the sampler's; null while no pass went
    over them.
    """

    turns_from: Any
    trainer_difference: TrainerDifference | None
    turns: list[dict[str, Any]]
    other_samples: list[dict[str, Any]]


class ScoreTrace(BaseModel):
    """Which model is to go over a rollout: id, slug or name; none: the one that it was sampled from."""

    model: str | None = Field(default=None, max_length=512)


class TraceSpans(BaseModel):
    """Spans as they were sent."""

    spans: list[dict[str, Any]]


class TraceEvents(BaseModel):
    """What happened in a rollout, in order, for people to read: agent_message and tool_call."""

    events: list[dict[str, Any]]
