"""Datums come out of a payload as they went in, whatever protocol they are of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainer.tiny import deep_batch, mixed_batch
from wire.conversion import to_datums
from wire.datum_payload import decode_datums, encode_datums
from wire.datums import Datum, Origin
from wire.extension import Media, TokenSequence
from wire.payload import decode

ARRAYS = ("spans", "is_sampled", "targets", "weights", "advantages", "sampling_logprobs", "in_ratio")
FEW_VALUES = st.sampled_from([0.0, -0.0, 1.0, -2.5, 1e-30])


@st.composite
def any_datums(draw: st.DrawFn) -> list[Datum]:
    """Of no trajectory: any targets, weights and advantages."""
    datums = []
    for index in range(draw(st.integers(1, 4))):
        ids = np.array(draw(st.lists(st.integers(0, 3), min_size=1, max_size=9)), np.int32)
        edges = sorted(draw(st.sets(st.integers(0, len(ids)), min_size=2, max_size=6)))
        spans = np.array(edges[: len(edges) // 2 * 2], np.int32).reshape(-1, 2)
        length = int((spans[:, 1] - spans[:, 0]).sum())
        row = st.lists(FEW_VALUES, min_size=length, max_size=length)
        is_sampled = draw(st.booleans())
        shifted = np.append(ids, np.int32(7))[np.concatenate([np.arange(*span) for span in spans]) + 1]
        media = (Media(0, draw(st.integers(1, len(ids))), bytes(range(32)), 640, 480),) if draw(st.booleans()) else ()
        targets, weights = shifted if draw(st.booleans()) else np.array(draw(row), np.int32) + 5, draw(row)
        if num_targets := draw(st.integers(0, 3)):
            targets, weights = (np.array([each] * num_targets).T for each in (targets, weights))
        datums.append(
            Datum(
                model_input=TokenSequence(ids, media),
                spans=spans,
                is_sampled=np.full(len(spans), is_sampled),
                targets=targets,
                weights=np.array(weights, np.float32),
                advantages=np.array(draw(row)),
                sampling_logprobs=np.array(draw(row) if is_sampled else [0.0] * length, np.float32),
                origin=Origin(index, index // 2, draw(st.none() | FEW_VALUES), draw(st.none() | st.just(f"{index:x}"))),
                in_ratio=np.array(draw(row)) != 0 if draw(st.booleans()) else None,
            )
        )
    return datums


def check(datums: list[Datum]) -> None:
    found, arguments = decode_datums(encode_datums(datums, {"loss_fn": "ppo"}))
    assert arguments == {"loss_fn": "ppo"}
    for one, other in zip(datums, found, strict=True):
        assert (one.origin, one.model_input.media) == (other.origin, other.model_input.media)
        assert one.model_input.ids.tobytes() == other.model_input.ids.tobytes()
        for name in ARRAYS:
            before, after = getattr(one, name), getattr(other, name)
            if before is None:
                assert after is None, name
                continue
            assert (before.dtype, before.shape, before.tobytes()) == (after.dtype, after.shape, after.tobytes()), name


@given(any_datums())
def test_any_datums_come_back_to_the_bit(datums: list[Datum]) -> None:
    check(datums)


def test_datums_of_trajectories_come_back_to_the_bit() -> None:
    for batch in (mixed_batch(), deep_batch()):
        check(to_datums(batch))


def test_a_payload_has_the_lowest_format_that_holds_it() -> None:
    (datum, *_) = to_datums(deep_batch())
    several = replace(
        datum, targets=np.stack([datum.targets] * 2, 1), weights=np.ones((datum.num_scored, 2), np.float32)
    )
    ratio = replace(datum, in_ratio=np.ones(datum.num_scored, np.bool_))
    media = (Media(0, 2, bytes(32), 16, 8),)
    seen, seen_by_ratio = (
        replace(each, model_input=TokenSequence(datum.model_input.ids, media)) for each in (datum, ratio)
    )
    formats = [decode(encode_datums([each], {}))[0]["format"] for each in (datum, several, ratio, seen, seen_by_ratio)]
    assert formats == [2, 3, 3, 4, 4]


def test_what_is_the_same_for_all_positions_takes_the_room_of_one_number() -> None:
    (datum, *_), _ = decode_datums(encode_datums(to_datums(deep_batch()), {}))
    assert (datum.advantages.strides, datum.weights.strides) == ((0,), (0,))
