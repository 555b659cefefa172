"""What a client has sent, held for no longer than it is needed, and in the core's terms."""

from __future__ import annotations

from typing import Generic, TypeVar
from uuid import UUID

import numpy as np
from pydantic import BaseModel

from server.catalog.repository import as_uuid
from server.protocols.hud.training.schemas import BackwardRequest, ForwardRequest, SampleInput, TrajectoryInput
from server.training.requests import BatchRequest, WeightsRequest
from wire.errors import InvalidRequest
from wire.process.off_loop import off_loop
from wire.trajectories import Trajectory, Turn

RequestT = TypeVar("RequestT", bound=BaseModel)
SentT = TypeVar("SentT", bound=BaseModel, covariant=True)


class Sent(Generic[SentT]):
    """A request that was read from `num_bytes`. A batch may be gigabytes, and its call may wait for minutes."""

    def __init__(self, body: SentT, num_bytes: int) -> None:
        self._body: SentT | None = body
        self.num_bytes = num_bytes

    @property
    def body(self) -> SentT:
        """Until it is dropped."""
        assert self._body is not None, "the body was dropped when its operation was in the log"
        return self._body

    def drop(self) -> None:
        """It is in the log."""
        self._body = None


async def sent_batch(sent: Sent[ForwardRequest]) -> BatchRequest:
    """The batch of a request. Raises InvalidRequest for a trace id that is none, or for images."""
    return await off_loop(sent.num_bytes, _batch, sent.body, sent.num_bytes)


async def sent_weights(sent: Sent[BackwardRequest]) -> WeightsRequest:
    """The weights of a request."""
    body = sent.body
    return WeightsRequest(body.forward_id, body.weights, body.metrics, sent.num_bytes)


def _batch(body: ForwardRequest, num_bytes: int) -> BatchRequest:
    inputs = [
        _trace_id(index, item) if isinstance(item, str) else _trajectory(index, item)
        for index, item in enumerate(body.inputs)
    ]
    return BatchRequest(inputs, body.group_size, body.reward_scale, body.max_staleness, num_bytes)


def _trace_id(index: int, text: str) -> UUID:
    trace_id = as_uuid(text)
    if trace_id is None:
        shown = text if len(text) <= 64 else text[:64] + "…"
        raise InvalidRequest(f"input {index} is {shown!r}, which is no trace id: 32 hex digits, or a UUID with dashes")
    return trace_id


def _trajectory(index: int, sent: TrajectoryInput) -> Trajectory:
    turns = [_turn(f"input {index}, sample {number}", sample) for number, sample in enumerate(sent.samples)]
    return Trajectory(tuple(turns), sent.reward, sent.trace_id)


def _turn(where: str, sample: SampleInput) -> Turn:
    if sample.prompt_chunks is not None:
        raise InvalidRequest(f"{where} has prompt_chunks: image prompts are not supported yet")
    prompt_ids = sample.prompt_token_ids if sample.prompt_token_ids is not None else np.zeros(0, np.int32)
    return Turn(prompt_ids, sample.output_token_ids, sample.output_logprobs)
