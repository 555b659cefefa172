from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainer.tiny import datum_of
from trainer.engine.kernels.dense import DenseKernel
from trainer.engine.packing import Pack, PassBudget, build_pack, plan_shards
from trainer.engine.vision.cost import PictureCost
from wire.datums import Datum
from wire.extension import Media, TokenSequence
from wire.picture_rule import PictureRule


def plan(
    sequences: list[list[int]], group_size: int, num_substeps: int = 1, max_tokens: int = 100, **budget: object
) -> list[list[int]]:
    """Which sequences go into which micro-batch, by the order in which they came."""
    datums = [datum_of([*ids, 0], len(ids), i, i // group_size) for i, ids in enumerate(sequences)]
    (micro_batches,) = plan_shards(datums, num_substeps=num_substeps, budget=PassBudget(max_tokens, **budget))
    return [[d.origin.trajectory_index for d in micro_batch] for micro_batch in micro_batches]


def strangers(*lengths: int) -> list[list[int]]:
    """Sequences that share nothing, in lexicographic order."""
    return [[i + 1] * length for i, length in enumerate(lengths)]


def packed(*datums: Datum) -> Pack:
    return build_pack(datums, DenseKernel(), torch.device("cpu"))


def test_groups_stay_whole_where_the_budget_allows() -> None:
    assert plan(strangers(30, 30, 30, 30), group_size=2, max_tokens=100) == [[0, 1], [2, 3]]


def test_shared_tokens_cost_once() -> None:
    prompt = [9] * 60
    assert plan([[*prompt, i] for i in range(8)], group_size=8, max_tokens=70) == [list(range(8))]
    assert len(plan([[*prompt, i] for i in range(8)], group_size=8, max_tokens=70, shares=False)) == 8


def test_a_group_over_the_budget_is_cut_where_it_shares_least() -> None:
    one, other = [1] * 40, [2] * 40
    sequences = [[*one, 1], [*other, 1], [*one, 2], [*other, 2]]
    assert plan(sequences, group_size=4, max_tokens=50) == [[0, 2], [1, 3]]


def test_a_datum_over_the_budget_goes_alone() -> None:
    assert plan(strangers(10, 500, 10), group_size=3, max_tokens=100) == [[0], [1], [2]]


def test_long_sequences_cost_more_than_their_tokens() -> None:
    assert plan(strangers(40, 40), group_size=1, max_tokens=100) == [[0, 1]]
    # 40 · 41 / 2 pairs are 8.2 tokens more each, 20 · 21 / 2 but 2.1.
    assert plan(strangers(40, 40), group_size=1, max_tokens=96, tokens_per_pair=0.01) == [[0], [1]]
    assert plan(strangers(20, 20, 20, 20), group_size=1, max_tokens=96, tokens_per_pair=0.01) == [[0, 1, 2, 3]]


RULE = PictureRule(
    kind="patches",
    placeholder_id=7,
    patch=8,
    merge=2,
    min_pixels=256,
    max_pixels=1 << 20,
    tokens=0,
    axes=3,
    two_way=False,
    template_text="",
    text_before="",
    text_after="",
    preprocessing="",
)


def shown(index: int, first_word: int, *pictures: int) -> Datum:
    """A word, and pictures of 16×32 pixels: two tokens and eight patches each."""
    media = [Media(1 + 2 * number, 2, bytes([name] * 32), 16, 32) for number, name in enumerate(pictures)]
    datum = datum_of([first_word, *[7] * (2 * len(pictures)), 3], 1 + 2 * len(pictures), index)
    return replace(datum, model_input=TokenSequence(datum.model_input.ids, tuple(media)))


def planned(datums: list[Datum], max_tokens: int, cost: PictureCost | None, **budget: object) -> list[list[list[int]]]:
    shards = plan_shards(datums, num_substeps=1, budget=PassBudget(max_tokens, pictures=cost, **budget))
    return [[[d.origin.trajectory_index for d in micro_batch] for micro_batch in shard] for shard in shards]


@pytest.mark.parametrize("cost", [PictureCost(RULE, 2.0, 0.0), PictureCost(RULE, 0.0, 0.25)])
def test_pictures_cost_what_their_patches_cost_a_tower(cost: PictureCost) -> None:
    """16 tokens each: 8 · 2, or 8 · 8 / 4."""
    datums = [shown(0, 1, 1), shown(1, 2, 2), shown(2, 3)]
    assert planned(datums, max_tokens=39, cost=cost) == [[[0, 1, 2]]], "3 + 3 + 1 tokens, and 32 of pictures"
    assert planned(datums, max_tokens=38, cost=cost) == [[[0, 1], [2]]]
    assert planned(datums, max_tokens=7, cost=None) == [[[0, 1, 2]]], "a base that takes text alone has none"


def test_a_picture_that_several_show_costs_once() -> None:
    cost = PictureCost(RULE, 2.0, 0.0)
    assert planned([shown(0, 1, 1), shown(1, 2, 1)], max_tokens=22, cost=cost) == [[[0, 1]]]
    assert planned([shown(0, 1, 1), shown(1, 2, 2)], max_tokens=22, cost=cost) == [[[0], [1]]]
    assert planned([shown(0, 1, 1, 1)], max_tokens=1, cost=cost, alone=True) == [[[0]]]


def test_shards_have_about_as_many_pictures_each() -> None:
    """Two with a picture are 19 tokens each, six without any are one each."""
    datums = [shown(0, 1, 1), shown(1, 2, 2), *(shown(i, i + 1) for i in range(2, 8))]
    even = {"max_shards": 2, "alone": True}
    assert planned(datums, 100, PictureCost(RULE, 2.0, 0.0), **even) == [[[0]], [[1], [2], [3], [4], [5], [6], [7]]]
    assert planned(datums, 100, None, **even)[0] == [[0], [1]]


def test_groups_without_a_gradient_come_last_in_micro_batches_of_their_own() -> None:
    datums = [
        replace(datum_of([*ids, 0], len(ids), i, i), advantages=np.array([advantage]))
        for i, (ids, advantage) in enumerate(zip(strangers(30, 30, 30, 30), [0.0, 1.0, 0.0, -1.0], strict=True))
    ]

    def planned(apart_tokens: float) -> list[list[int]]:
        (shard,) = plan_shards(datums, num_substeps=1, budget=PassBudget(200, apart_tokens=apart_tokens))
        return [[datum.origin.trajectory_index for datum in micro_batch] for micro_batch in shard]

    assert planned(60) == [[1, 3], [0, 2]]
    assert planned(61) == [[0, 1, 2, 3]], "too few tokens for a pass of their own"
    datums = [replace(datum, advantages=np.array([0.0])) for datum in datums]
    assert planned(60) == [[0, 1, 2, 3]], "there is nothing to be apart from"


def test_where_passes_hold_one_sequence_each_datum_is_one() -> None:
    assert plan(strangers(1, 1, 1), group_size=3, num_substeps=2, alone=True) == [[0], [1], [2]]


def test_substeps_divide_whole_groups() -> None:
    assert plan(strangers(*[1] * 6), group_size=2, num_substeps=2) == [[0, 1, 2, 3], [4, 5]]


def test_more_substeps_than_groups_divide_trajectories() -> None:
    assert plan(strangers(*[1] * 4), group_size=4, num_substeps=3) == [[0, 1], [2], [3]]


def test_more_substeps_than_trajectories_are_as_many_as_there_can_be() -> None:
    assert plan(strangers(1, 1), group_size=2, num_substeps=9) == [[0], [1]]


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30), min_size=1, max_size=8),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 60),
)
def test_a_plan_keeps_every_datum_once_within_the_budget(
    sequences: list[list[int]], copies: int, num_substeps: int, max_tokens: int
) -> None:
    micro_batches = plan(sequences * copies, len(sequences), num_substeps, max_tokens)
    assert sorted(i for micro_batch in micro_batches for i in micro_batch) == list(range(len(sequences) * copies))
    for indices in micro_batches:
        pack = packed(*(datum_of([*(sequences * copies)[i], 0], len((sequences * copies)[i]), i) for i in indices))
        assert len(indices) == 1 or pack.num_tokens <= max_tokens


def test_a_pack_predicts_each_action_from_the_token_before_it() -> None:
    first = datum_of([5, 6, 7], 1)
    second = datum_of([8, 9], 1, 1)
    pack = packed(first, second)
    assert pack.input_ids_T.tolist() == [5, 6, 8]
    assert pack.position_ids_T.tolist() == [0, 1, 0]
    assert pack.rows_P[pack.inverse_N].tolist() == [0, 1, 2]
    assert pack.targets_P[pack.inverse_N].tolist() == [6, 7, 9]


def test_a_prediction_that_datums_share_is_made_once() -> None:
    one = datum_of([5, 6, 7], 1)
    other = datum_of([5, 6, 8], 1, 1)
    pack = packed(one, other)
    assert pack.input_ids_T.tolist() == [5, 6]
    assert list(zip(pack.rows_P.tolist(), pack.targets_P.tolist(), strict=True)) == [(0, 6), (1, 7), (1, 8)]
    assert pack.inverse_N.tolist() == [0, 1, 0, 2]
