"""Datums as the bytes of a training payload: format 2, 3 where a datum has several targets a position or says which
positions a ratio is taken over, and 4 where a model input has media. Format 1 is read, and converted as if it were
logged now.

The header holds the format, the trace id of each trajectory, media by datum, and the JSON-able arguments of the call.
Rollouts of a group share a prompt and an edited history most of itself, so that of each model input only what it does
not share with the one before is stored. What is the same for all positions of a datum (weights, advantages) is stored
once, and targets only where they are not the next token of the input.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from wire.conversion import to_datums
from wire.datums import Datum, Origin, by_trajectory, positions_of, repeated
from wire.extension import Media, TokenSequence, common_prefix
from wire.payload import Arrays, decode, encode, read_header
from wire.trajectories import Float32Array, Int32Array
from wire.trajectory_payload import read_batch

_FORMAT, _EXTENDED_FORMAT, _MEDIA_FORMAT = 2, 3, 4


def encode_datums(
    datums: Sequence[Datum], arguments: Mapping[str, Any], made_by: Mapping[str, Any] | None = None
) -> bytes:
    """One or more datums, and the JSON-able arguments that go with them.

    made_by: what they were converted by. It is not read again, but tells two calls apart whose datums are equal.
    """
    inputs, origins = [datum.model_input for datum in datums], [datum.origin for datum in datums]
    shared = [0, *(common_prefix(*pair) for pair in pairwise(inputs))]
    weights = [_once(datum.weights.ravel()) for datum in datums]
    is_extended = any(datum.targets.ndim > 1 or datum.in_ratio is not None for datum in datums)
    advantages = [_once(datum.advantages) for datum in datums]
    is_shifted = [_is_shifted(datum) for datum in datums]
    media = [_stored_media(index, item) for index, one in enumerate(inputs) for item in one.media]
    header = {
        "format": _MEDIA_FORMAT if media else _EXTENDED_FORMAT if is_extended else _FORMAT,
        "trace_ids": [of_one[0].origin.trace_id for of_one in by_trajectory(datums)],
        "media": media,
        "arguments": arguments,
        "made_by": made_by or {},
    }
    arrays = {
        "trajectory_indices": _ints(origin.trajectory_index for origin in origins),
        "group_indices": _ints(origin.group_index for origin in origins),
        "rewards": np.array([np.nan if origin.reward is None else origin.reward for origin in origins], np.float64),
        "input_shared": _ints(shared),
        "input_lengths": _ints(len(one) for one in inputs),
        "input_tails": np.concatenate([one.ids[n:] for one, n in zip(inputs, shared, strict=True)]),
        "num_spans": _ints(len(datum.spans) for datum in datums),
        "spans": np.concatenate([datum.spans.ravel() for datum in datums]),
        "is_sampled": np.concatenate([datum.is_sampled for datum in datums]).astype(np.int32),
        "is_shifted": _ints(is_shifted),
        "targets": np.concatenate([_stored_targets(*each) for each in zip(datums, is_shifted, strict=True)]),
        "weight_lengths": _ints(map(len, weights)),
        "weights": np.concatenate(weights),
        "advantage_lengths": _ints(map(len, advantages)),
        "advantages": np.concatenate(advantages),
        "sampling_logprobs": np.concatenate([_stored_logprobs(datum) for datum in datums]),
    }
    return encode(header, {**arrays, **(_extension(datums) if is_extended else {})})


def decode_datums(data: bytes) -> tuple[list[Datum], dict[str, Any]]:
    """The datums and arguments of a payload of any format. Raises ValueError for another one."""
    header, arrays = decode(data)
    if "format" not in header:
        batch, arguments = read_batch(header, arrays)
        return to_datums(batch, arguments.get("loss_fn_config")), arguments
    if header["format"] not in (_FORMAT, _EXTENDED_FORMAT, _MEDIA_FORMAT):
        raise ValueError(f"a training payload of an unknown format {header['format']}")
    return list(_datums(header, arrays)), header["arguments"]


def picture_names(data: bytes) -> list[str]:
    """Names of the pictures in a payload of any operation, each once, in order of names."""
    return sorted({name for _, _, _, name, _, _ in read_header(data).get("media", ())})


def _stored_media(index: int, item: Media) -> list[Any]:
    return [index, item.start, item.num_tokens, item.name, item.width, item.height]


class _Rest:
    """An array that is taken apart from its beginning."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array
        self._at = 0

    def take(self, length: int) -> npt.NDArray[Any]:
        self._at += length
        return self._array[self._at - length : self._at]


def _datums(header: Mapping[str, Any], arrays: Arrays) -> Iterator[Datum]:
    rest = {name: _Rest(array) for name, array in arrays.items()}
    media = defaultdict[int, list[Media]](list)
    for index, start, num_tokens, name, width, height in header["media"]:
        media[index].append(Media(start, num_tokens, bytes.fromhex(name), width, height))
    ids = np.zeros(0, np.int32)
    for index, origin in enumerate(_origins(header, arrays)):
        shared, length = (int(rest[name].take(1)[0]) for name in ("input_shared", "input_lengths"))
        ids = np.concatenate([ids[:shared], rest["input_tails"].take(length - shared)])
        yield _datum(TokenSequence(ids, tuple(media[index])), origin, rest)


def _datum(model_input: TokenSequence, origin: Origin, rest: Mapping[str, _Rest]) -> Datum:
    def number(name: str) -> int:
        """The datum's own, 0 where the format has none."""
        return int(rest[name].take(1)[0]) if name in rest else 0

    num_spans = number("num_spans")
    spans = rest["spans"].take(2 * num_spans).reshape(num_spans, 2)
    is_sampled = rest["is_sampled"].take(num_spans).astype(np.bool_)
    positions = positions_of(spans)
    num_targets, num_in_ratio = number("num_targets"), number("in_ratio_lengths")
    shape = (len(positions), num_targets) if num_targets else (len(positions),)
    is_shifted = number("is_shifted")
    unknown = rest["targets"].take(_ends_behind(model_input, spans) if is_shifted else math.prod(shape))
    return Datum(
        model_input=model_input,
        spans=spans,
        is_sampled=is_sampled,
        targets=np.concatenate([model_input.ids, unknown])[positions + 1] if is_shifted else unknown.reshape(shape),
        weights=_on_all(rest["weights"].take(number("weight_lengths")), shape),
        advantages=_on_all(rest["advantages"].take(number("advantage_lengths")), (len(positions),)),
        sampling_logprobs=rest["sampling_logprobs"].take(len(positions))
        if is_sampled.any()
        else np.zeros(len(positions), np.float32),
        origin=origin,
        in_ratio=rest["in_ratio"].take(num_in_ratio).astype(np.bool_) if num_in_ratio else None,
    )


def _origins(header: Mapping[str, Any], arrays: Arrays) -> Iterator[Origin]:
    names, last = iter(header["trace_ids"]), None
    facts = (arrays[name].tolist() for name in ("trajectory_indices", "group_indices", "rewards"))
    trace_id: str | None = None
    for trajectory_index, group_index, reward in zip(*facts, strict=True):
        if trajectory_index != last:
            last, trace_id = trajectory_index, next(names)
        yield Origin(trajectory_index, group_index, None if math.isnan(reward) else reward, trace_id)


def _once(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """One value, if all are the same to the bit."""
    bits = values.view(f"i{values.itemsize}")
    return values[:1] if len(values) and (bits == bits[0]).all() else values


def _on_all(values: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    return (repeated(values, math.prod(shape)) if len(values) == 1 else values).reshape(shape)


def _is_shifted(datum: Datum) -> bool:
    """Whether each target is the next token of the input, but for the last one, which may lie behind its end."""
    if datum.targets.ndim > 1:
        return False
    positions = datum.positions
    inside = positions[: len(positions) - _ends_behind(datum.model_input, datum.spans)]
    return np.array_equal(datum.model_input.ids[inside + 1], datum.targets[: len(inside)])


def _ends_behind(model_input: TokenSequence, spans: Int32Array) -> bool:
    """Whether the last scored position is the input's last, which none of its tokens follows."""
    return len(spans) > 0 and int(spans[-1, 1]) == len(model_input)


def _stored_targets(datum: Datum, is_shifted: bool) -> Int32Array:
    if not is_shifted:
        return datum.targets.ravel()
    return datum.targets[-1:] if _ends_behind(datum.model_input, datum.spans) else datum.targets[:0]


def _stored_logprobs(datum: Datum) -> Float32Array:
    return datum.sampling_logprobs if datum.is_sampled.any() else datum.sampling_logprobs[:0]


def _extension(datums: Sequence[Datum]) -> Arrays:
    """num_targets: K of (P, K), 0 of (P,). in_ratio_lengths: 0 of those that do not say."""
    in_ratio = [datum.in_ratio if datum.in_ratio is not None else np.zeros(0, np.bool_) for datum in datums]
    return {
        "num_targets": _ints(datum.targets.shape[1] if datum.targets.ndim > 1 else 0 for datum in datums),
        "in_ratio_lengths": _ints(map(len, in_ratio)),
        "in_ratio": np.concatenate(in_ratio).astype(np.int32),
    }


def _ints(values: Iterable[int]) -> Int32Array:
    return np.array(list(values), np.int32)
