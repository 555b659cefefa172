from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.batch import Datum
from trainer.packing import build_pack, plan_micro_batches


def datum(trajectory_index: int, length: int) -> Datum:
    return Datum(trajectory_index, np.arange(length, dtype=np.int32), np.array([length - 1]), np.zeros(1, np.float32))


def plan(lengths: list[int], group_size: int, num_substeps: int = 1, max_tokens: int = 100) -> list[list[int]]:
    datums = [datum(i, length + 1) for i, length in enumerate(lengths)]
    micro_batches = plan_micro_batches(datums, group_size=group_size, num_substeps=num_substeps, max_tokens=max_tokens)
    return [[d.trajectory_index for d in micro_batch] for micro_batch in micro_batches]


def test_groups_stay_whole_where_the_budget_allows() -> None:
    assert plan([30, 30, 30, 30], group_size=2, max_tokens=100) == [[0, 1], [2, 3]]


def test_a_group_over_the_budget_is_split_between_datums() -> None:
    assert plan([30, 30, 30, 30, 5, 5], group_size=4, max_tokens=60) == [[0, 1], [2, 3], [4, 5]]


def test_a_datum_over_the_budget_goes_alone() -> None:
    assert plan([10, 500, 10], group_size=3, max_tokens=100) == [[0], [1], [2]]


def test_substeps_divide_whole_groups() -> None:
    assert plan([1] * 6, group_size=2, num_substeps=2) == [[0, 1, 2, 3], [4, 5]]


def test_more_substeps_than_groups_divide_trajectories() -> None:
    assert plan([1] * 4, group_size=4, num_substeps=3) == [[0, 1], [2], [3]]


def test_more_substeps_than_trajectories_are_as_many_as_there_can_be() -> None:
    assert plan([1] * 2, group_size=2, num_substeps=9) == [[0], [1]]


@given(st.lists(st.integers(1, 80), min_size=1, max_size=8), st.integers(1, 3), st.integers(1, 9), st.integers(1, 200))
def test_a_plan_keeps_every_datum_once_in_order(
    lengths: list[int], copies: int, num_substeps: int, max_tokens: int
) -> None:
    micro_batches = plan(lengths * copies, len(lengths), num_substeps, max_tokens)
    assert [i for micro_batch in micro_batches for i in micro_batch] == list(range(len(lengths) * copies))
    for indices in micro_batches:
        assert len(indices) == 1 or sum((lengths * copies)[i] for i in indices) <= max_tokens


def test_a_pack_predicts_each_action_from_the_token_before_it() -> None:
    first = Datum(0, np.array([5, 6, 7], np.int32), np.array([1, 2]), np.zeros(2, np.float32))
    second = Datum(1, np.array([8, 9], np.int32), np.array([1]), np.zeros(1, np.float32))
    pack = build_pack([first, second], torch.device("cpu"))
    assert pack.input_ids_T.tolist() == [5, 6, 8]
    assert pack.position_ids_T.tolist() == [0, 1, 0]
    assert pack.layout.lengths == (2, 1)
    assert pack.rows_P[pack.inverse_N].tolist() == [0, 1, 2]
    assert pack.targets_P[pack.inverse_N].tolist() == [6, 7, 9]
