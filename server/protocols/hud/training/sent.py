"""What a client has sent, held for no longer than it is needed, and in the core's terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

import numpy as np
from pydantic import BaseModel

from server.catalog.repository import as_uuid
from server.pictures.collaborators import Pictures
from server.pictures.prompts import ChunkedPrompt, rule_of, sequences, with_names
from server.protocols.hud.training.schemas import BackwardRequest, ForwardRequest, SampleInput, TrajectoryInput
from server.training.admission import TrainedModel
from server.training.requests import BatchRequest, WeightsRequest
from wire.errors import InvalidRequest
from wire.extension import Int32Array, TokenSequence
from wire.picture_rule import PictureRule
from wire.picture_runs import refuse_unseen
from wire.process.off_loop import off_loop
from wire.prompt_chunks import read_chunks
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


async def name_pictures(pictures: Pictures, model: TrainedModel, sent: Sent[Any]) -> None:
    """Give each picture its name in the prompts of a request that came as chunks, in the request itself.

    Raises InvalidRequest for chunks that make no sense, and what `server.pictures.prompts.with_names` raises.
    """
    samples = [*_chunked(sent.body)] if isinstance(sent.body, ForwardRequest) else []
    if not samples:
        return
    prompts = await off_loop(sent.num_bytes, _read_prompts, samples)
    named = await with_names(pictures, model.team_id, rule_of(model.info.pictures), prompts)
    for (_, sample), prompt in zip(samples, named, strict=True):
        sample.prompt_chunks, sample.prompt_token_ids = list(prompt.chunks), None


async def sent_batch(sent: Sent[ForwardRequest], pictures: Pictures, model: TrainedModel) -> BatchRequest:
    """The batch of a request whose pictures have names. Raises InvalidRequest for a trace id that is none and for ids
    that stand for pictures which are not there, and what `server.pictures.prompts.sequences` raises."""
    samples = [*_chunked(sent.body)]
    prompts = [ChunkedPrompt(where, sample.prompt_chunks or []) for where, sample in samples]
    rule = rule_of(model.info.pictures)
    found = await sequences(pictures, model.team_id, rule, prompts)
    by_sample = {id(sample): sequence for (_, sample), sequence in zip(samples, found, strict=True)}
    return await off_loop(sent.num_bytes, _batch, sent.body, sent.num_bytes, by_sample, rule)


async def sent_weights(sent: Sent[BackwardRequest]) -> WeightsRequest:
    """The weights of a request."""
    body = sent.body
    return WeightsRequest(body.forward_id, body.weights, body.metrics, sent.num_bytes)


def _samples(body: ForwardRequest) -> Iterator[tuple[str, SampleInput]]:
    """Turns that were sent, and their places."""
    for index, item in enumerate(body.inputs):
        for number, sample in enumerate([] if isinstance(item, str) else item.samples):
            yield f"input {index}, sample {number}", sample


def _chunked(body: ForwardRequest) -> Iterator[tuple[str, SampleInput]]:
    return ((where, sample) for where, sample in _samples(body) if sample.prompt_chunks)


def _of_ids_alone(body: ForwardRequest) -> Iterator[tuple[str, Int32Array]]:
    for where, sample in _samples(body):
        if not sample.prompt_chunks and sample.prompt_token_ids is not None:
            yield where, sample.prompt_token_ids


def _read_prompts(samples: Sequence[tuple[str, SampleInput]]) -> list[ChunkedPrompt]:
    return [ChunkedPrompt(where, read_chunks(where, sample.prompt_chunks or [])) for where, sample in samples]


def _batch(
    body: ForwardRequest, num_bytes: int, prompts: Mapping[int, TokenSequence], rule: PictureRule | None
) -> BatchRequest:
    if rule is not None:
        for where, prompt_ids in _of_ids_alone(body):
            refuse_unseen(rule, f"{where}: prompt_token_ids", prompt_ids)
    inputs = [
        _trace_id(index, item) if isinstance(item, str) else _trajectory(index, item, prompts)
        for index, item in enumerate(body.inputs)
    ]
    return BatchRequest(inputs, body.group_size, body.reward_scale, body.max_staleness, num_bytes)


def _trace_id(index: int, text: str) -> UUID:
    trace_id = as_uuid(text)
    if trace_id is None:
        shown = text if len(text) <= 64 else text[:64] + "…"
        raise InvalidRequest(f"input {index} is {shown!r}, which is no trace id: 32 hex digits, or a UUID with dashes")
    return trace_id


def _trajectory(index: int, sent: TrajectoryInput, prompts: Mapping[int, TokenSequence]) -> Trajectory:
    turns = [_turn(sample, prompts.get(id(sample))) for sample in sent.samples]
    return Trajectory(tuple(turns), sent.reward, sent.trace_id)


def _turn(sample: SampleInput, prompt: TokenSequence | None) -> Turn:
    if prompt is not None:
        return Turn(prompt.ids, sample.output_token_ids, sample.output_logprobs, prompt.media)
    prompt_ids = sample.prompt_token_ids if sample.prompt_token_ids is not None else np.zeros(0, np.int32)
    return Turn(prompt_ids, sample.output_token_ids, sample.output_logprobs)
