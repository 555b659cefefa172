"""What was sampled, as it is kept until the client has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from server.sampling.answers import Answer
from server.sampling_sessions.calls import SampleCall, TargetMatrix
from wire.payload import decode, encode
from wire.sampling import PromptScores

# P tokens of the prompt, N tokens of an answer, K alternatives

NO_ID, NO_LOGPROB = 0, -99999.0
"""What a row of alternatives is filled up with."""


@dataclass(frozen=True, slots=True)
class Alternatives:
    """The likeliest tokens of each place, filled up to K; a place that was not asked for has none."""

    ids_NK: npt.NDArray[np.int32]
    logprobs_NK: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SampledSequence:
    """One answer. `stop_reason`: stop or length."""

    tokens_N: npt.NDArray[np.int32]
    logprobs_N: npt.NDArray[np.float32]
    stop_reason: str
    alternatives: Alternatives | None = None


@dataclass(frozen=True, slots=True)
class Sampled:
    """The answers to a request, and what it asked about its prompt. prompt_logprobs_P: NaN where there is none."""

    sequences: list[SampledSequence]
    prompt_logprobs_P: npt.NDArray[np.float32] | None = None
    prompt_alternatives: Alternatives | None = None
    targets: TargetMatrix | None = None
    """The matrix that was asked for,"""
    target_logprobs: npt.NDArray[np.float32] | None = None
    """and the logprobs in the order of its values; 0 where nothing was asked for."""

    @property
    def num_bytes(self) -> int:
        """Of all its arrays, about."""
        listed = [self.prompt_alternatives, *(one.alternatives for one in self.sequences)]
        tops = sum(one.ids_NK.size for one in listed if one is not None)
        num_prompt = 0 if self.prompt_logprobs_P is None else self.prompt_logprobs_P.size
        return 8 * (sum(len(one.tokens_N) for one in self.sequences) + tops + num_prompt)

    @classmethod
    def of(cls, call: SampleCall, answers: Sequence[Answer], scores: PromptScores | None) -> Sampled:
        """Put together what samplers returned."""
        sequences = [_sequence(answer, call.top_logprobs) for answer in answers]
        if call.max_tokens == 0:
            nothing = SampledSequence(np.zeros(0, np.int32), np.zeros(0, np.float32), "length")
            sequences = [nothing] * call.num_answers
        if scores is None:
            return cls(sequences)
        alternatives = None
        if call.top_prompt_logprobs:
            num_before = len(call.prompt) - len(scores.top_ids)
            ids = [[]] * num_before + scores.top_ids
            logprobs = [[]] * num_before + scores.top_logprobs
            if call.last_n is not None:
                ids[: -call.last_n] = logprobs[: -call.last_n] = [[]] * (len(ids) - call.last_n)
            alternatives = _filled(ids, logprobs, call.top_prompt_logprobs)
        return cls(
            sequences,
            _prompt_logprobs(call, scores) if call.wants_prompt_logprobs else None,
            alternatives,
            call.targets,
            None if call.targets is None else call.targets.in_layout(scores.targets or []),
        )

    def encoded(self) -> bytes:
        """To be kept."""
        header: dict[str, Any] = {
            "stop_reasons": [one.stop_reason for one in self.sequences],
            "lengths": [len(one.tokens_N) for one in self.sequences],
            "width": _width([one.alternatives for one in self.sequences]),
            "prompt_width": _width([self.prompt_alternatives]),
        }
        arrays = {
            "tokens": _joined([one.tokens_N for one in self.sequences], np.int32),
            "logprobs": _joined([one.logprobs_N for one in self.sequences], np.float32),
        }
        listed = [one.alternatives for one in self.sequences if one.alternatives is not None]
        if listed:
            arrays["top_ids"] = _joined([one.ids_NK for one in listed], np.int32)
            arrays["top_logprobs"] = _joined([one.logprobs_NK for one in listed], np.float32)
        if self.prompt_logprobs_P is not None:
            arrays["prompt_logprobs"] = self.prompt_logprobs_P
        if self.prompt_alternatives is not None:
            arrays["prompt_top_ids"] = self.prompt_alternatives.ids_NK.reshape(-1)
            arrays["prompt_top_logprobs"] = self.prompt_alternatives.logprobs_NK.reshape(-1)
        if self.targets is not None and self.target_logprobs is not None:
            header["target_shape"] = self.targets.shape
            arrays |= {"targets": self.targets.values, "target_logprobs": self.target_logprobs}
            if self.targets.row_pointers is not None and self.targets.columns is not None:
                arrays |= {"row_pointers": self.targets.row_pointers, "columns": self.targets.columns}
        return encode(header, arrays)

    @classmethod
    def decoded(cls, data: bytes) -> Sampled:
        """What `encoded` made."""
        header, arrays = decode(data)
        sequences, start, width = list[SampledSequence](), 0, header["width"]
        for reason, length in zip(header["stop_reasons"], header["lengths"], strict=True):
            rows = slice(start, start + length)
            tops = slice(start * width, (start + length) * width)
            alternatives = (
                _alternatives(arrays["top_ids"][tops], arrays["top_logprobs"][tops], width) if width else None
            )
            sequences.append(SampledSequence(arrays["tokens"][rows], arrays["logprobs"][rows], reason, alternatives))
            start += length
        prompt_width, targets = header["prompt_width"], None
        if "targets" in arrays:
            shape: Any = header["target_shape"]
            layout = arrays.get("row_pointers"), arrays.get("columns")
            targets = TargetMatrix(arrays["targets"], (shape[0], shape[1]), *layout)
        return cls(
            sequences,
            arrays.get("prompt_logprobs"),
            _alternatives(arrays["prompt_top_ids"], arrays["prompt_top_logprobs"], prompt_width)
            if prompt_width
            else None,
            targets,
            arrays.get("target_logprobs"),
        )


def _sequence(answer: Answer, num_top: int) -> SampledSequence:
    tokens = answer.tokens
    alternatives = None
    if num_top:
        ids = [[top.token_id for top in row] for row in tokens.top_logprobs]
        logprobs = [[top.logprob for top in row] for row in tokens.top_logprobs]
        alternatives = _filled(ids, logprobs, num_top)
    return SampledSequence(
        np.array(tokens.ids, np.int32),
        np.array(tokens.logprobs, np.float32),
        answer.finish_reason or "length",
        alternatives,
    )


def _prompt_logprobs(call: SampleCall, scores: PromptScores) -> npt.NDArray[np.float32]:
    logprobs_P = np.full(len(call.prompt), np.nan, np.float32)
    num_scored = len(scores.logprobs)
    if num_scored:
        logprobs_P[-num_scored:] = [np.nan if value is None else value for value in scores.logprobs]
    if call.last_n is not None:
        logprobs_P[: len(logprobs_P) - call.last_n] = np.nan
    return logprobs_P


def _filled(ids: Sequence[Sequence[int]], logprobs: Sequence[Sequence[float]], width: int) -> Alternatives:
    ids_NK = np.full((len(ids), width), NO_ID, np.int32)
    logprobs_NK = np.full((len(ids), width), NO_LOGPROB, np.float32)
    for at, (row, values) in enumerate(zip(ids, logprobs, strict=True)):
        ids_NK[at, : len(row)] = row
        logprobs_NK[at, : len(row)] = values
    return Alternatives(ids_NK, logprobs_NK)


def _alternatives(ids: npt.NDArray[Any], logprobs: npt.NDArray[Any], width: int) -> Alternatives:
    return Alternatives(ids.reshape(-1, width), logprobs.reshape(-1, width))


def _width(listed: Sequence[Alternatives | None]) -> int:
    return next((one.ids_NK.shape[1] for one in listed if one is not None), 0)


def _joined(arrays: Sequence[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate([array.reshape(-1) for array in arrays]) if arrays else np.zeros(0, dtype)
