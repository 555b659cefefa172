"""What the engine refuses before it computes anything. Each refusal is one sentence that names the input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wire.datums import Datum
from wire.engine import BaseModelInfo, LoraConfig, Pictures
from wire.errors import InvalidRequest
from wire.extension import TokenSequence
from wire.picture_rule import PictureRule
from wire.picture_runs import sequence_of
from wire.trajectories import Float32Array, Int32Array


def check_datums(
    datums: Sequence[Datum],
    info: BaseModelInfo,
    *,
    sampling_logprobs_optional: bool = True,
    scores_several: bool = True,
) -> None:
    """Raises InvalidRequest unless every datum can be scored.

    sampling_logprobs_optional: spans may then have come without any (supervised data). scores_several: whether a
    position may have several targets.
    """
    if not datums:
        raise InvalidRequest("the batch has no datums")
    for index, datum in enumerate(datums):
        where = f"input {datum.origin.trajectory_index} (datum {index})"
        if not scores_several and datum.targets.ndim > 1:
            raise InvalidRequest(f"{where} has several targets a position, which cross_entropy alone scores")
        _check_shapes(where, datum)
        _check_media(where, datum.model_input, info)
        _check_ids(f"{where}: its model input", datum.model_input.ids, info.vocab_size)
        _check_ids(f"{where}: its targets", datum.targets, info.vocab_size)
        if datum.num_tokens > info.context_length:
            raise InvalidRequest(
                f"{where}: its {datum.num_tokens} tokens are more than the model's context of {info.context_length}"
            )
        if not np.isfinite(datum.sampling_logprobs).all() or not np.isfinite(datum.weights).all():
            raise InvalidRequest(f"{where}: its sampling logprobs or weights hold a value that is not a finite number")
        if not (sampling_logprobs_optional or datum.is_sampled.all()):
            raise InvalidRequest(f"{where} has targets without sampling logprobs, which this loss needs")


def check_pictures(datums: Sequence[Datum], pictures: Pictures) -> None:
    """Raises InvalidRequest unless the bytes of every picture are there."""
    for index, datum in enumerate(datums):
        for item in datum.model_input.media:
            if item.digest not in pictures:
                where = f"input {datum.origin.trajectory_index} (datum {index})"
                raise InvalidRequest(f"{where}: its picture {item.name} did not come with the call")


def check_lora(lora: LoraConfig) -> None:
    """Raises InvalidRequest unless an adapter of this shape can exist."""
    if lora.rank < 1 or lora.alpha < 1:
        raise InvalidRequest(f"rank {lora.rank} and alpha {lora.alpha}: both must be 1 or more")
    if not lora.parts:
        raise InvalidRequest("attn, mlp and unembed are all false: an adapter needs one of them at least")


def check_num_substeps(num_substeps: int) -> None:
    """Raises InvalidRequest unless it is one or more."""
    if num_substeps < 1:
        raise InvalidRequest(f"num_substeps is {num_substeps}: it must be 1 or more")


def check_weights(datums: Sequence[Datum], weights: Sequence[Float32Array]) -> None:
    """Raises InvalidRequest unless there is one finite weight for each position of each datum.

    Weights of positions that are not scored are ignored, whatever they are.
    """
    if len(weights) != len(datums):
        raise InvalidRequest(f"weights has {len(weights)} rows, but the forward pass returned {len(datums)} datums")
    for index, (datum, row) in enumerate(zip(datums, weights, strict=True)):
        if len(row) != datum.num_tokens:
            raise InvalidRequest(f"weights[{index}] has {len(row)} values, its datum {datum.num_tokens} positions")
        if not np.isfinite(row[datum.positions]).all():
            raise InvalidRequest(f"weights[{index}] holds a value on a sampled token that is not finite")


def _check_shapes(where: str, datum: Datum) -> None:
    edges = datum.spans.ravel()
    if len(edges) == 0 or edges[0] < 0 or edges[-1] > datum.num_tokens or not _ascend(datum.spans):
        raise InvalidRequest(f"{where}: its spans are no ascending runs of its {datum.num_tokens} positions")
    num_positions = int((datum.spans[:, 1] - datum.spans[:, 0]).sum())
    aligned = [datum.advantages, datum.sampling_logprobs, *([] if datum.in_ratio is None else [datum.in_ratio])]
    lengths = {len(each) for each in (datum.targets, *aligned)}
    if (
        lengths != {num_positions}
        or datum.targets.ndim > 2
        or datum.targets.size == 0
        or datum.weights.shape != datum.targets.shape
        or len(datum.is_sampled) != len(datum.spans)
    ):
        raise InvalidRequest(f"{where}: its targets and what goes with them are not one a scored position")


def _check_media(where: str, sequence: TokenSequence, info: BaseModelInfo) -> None:
    if not sequence.media:
        return
    if info.pictures is None:
        raise InvalidRequest(f"{where} has pictures, and this base takes text alone")
    sequence_of(PictureRule.from_json(info.pictures), where, sequence.ids, sequence.media)


def _ascend(spans: Int32Array) -> bool:
    return bool((spans[:, 0] < spans[:, 1]).all() and (spans[1:, 0] >= spans[:-1, 1]).all())


def _check_ids(what: str, ids: Int32Array, vocab_size: int) -> None:
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or highest >= vocab_size:
        bad = lowest if lowest < 0 else highest
        raise InvalidRequest(f"{what} holds {bad}, which is outside the vocabulary of {vocab_size} tokens")
