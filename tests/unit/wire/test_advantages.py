from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainer.tiny import trajectory, turn
from wire.advantages import advantages, groups_without_spread
from wire.trajectories import Batch


def batch(rewards: list[float], group_size: int | None = None, reward_scale: float = 1.0) -> Batch:
    return Batch([trajectory(turn([1], [2]), reward=r) for r in rewards], group_size, reward_scale)


def test_advantage_is_the_reward_above_its_own_groups_mean_times_the_scale() -> None:
    assert advantages(batch([1, 0, 5, 9], group_size=2, reward_scale=2.0)).tolist() == [1, -1, -4, 4]


def test_without_group_size_the_batch_is_one_group() -> None:
    assert advantages(batch([1, 0, 0, 3])).tolist() == [0, -1, -1, 2]


def test_spread_does_not_scale_the_advantage() -> None:
    assert advantages(batch([10, 0])).tolist() == [5, -5]


def test_on_request_the_advantage_is_divided_by_the_groups_sample_standard_deviation() -> None:
    # Of 1, 2, 6 around 3: variance (4 + 1 + 9) / 2 = 7. Of 0, 0, 3 around 1: (1 + 1 + 4) / 2 = 3.
    found = advantages(batch([1, 2, 6, 0, 0, 3], group_size=3, reward_scale=10), over_std=True)
    wide, narrow = 10 / (7**0.5 + 1e-4), 10 / (3**0.5 + 1e-4)
    expected = [-2 * wide, -1 * wide, 3 * wide, -1 * narrow, -1 * narrow, 2 * narrow]
    assert found.tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1, 3])
def test_a_group_without_spread_has_no_deviation_to_divide_by(size: int) -> None:
    assert advantages(batch([0.1] * 6, group_size=size), over_std=True).tolist() == [0] * 6


@given(st.floats(-1e6, 1e6), st.integers(1, 33), st.floats(-1e3, 1e3))
def test_equal_rewards_give_exactly_zero(reward: float, size: int, scale: float) -> None:
    assert not advantages(batch([reward] * size, reward_scale=scale)).any()


def test_equal_rewards_whose_mean_rounds_give_exactly_zero() -> None:
    rewards = [0.1] * 3
    assert np.mean(rewards) != 0.1
    assert advantages(batch(rewards)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "rewards",
    [[0.1 + 0.2, 0.3], [0.1 + 0.2 - 0.3, 0.0], [float(np.float32(0.7)), 0.7], [1e6 + 1e-3, 1e6], [-0.3, -(0.1 + 0.2)]],
)
def test_rewards_that_differ_by_a_rounding_are_equal(rewards: list[float]) -> None:
    assert rewards[0] != rewards[1]
    assert not advantages(batch(rewards)).any()


@pytest.mark.parametrize("rewards", [[1.0, 0.999], [1e-4, 0.0], [1e6 + 1, 1e6], [1e-6, 2e-6]])
def test_rewards_that_differ_by_more_are_not(rewards: list[float]) -> None:
    assert advantages(batch(rewards)).all()


def test_only_groups_of_equal_rewards_are_without_spread() -> None:
    assert groups_without_spread(np.array([[1.0, 1.0], [1.0, 0.0]])).tolist() == [True, False]
