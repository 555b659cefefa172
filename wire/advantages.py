"""Group-relative advantages: how much better than its group a rollout did.

Centred only, by default. Dividing by the group's standard deviation (GRPO, arXiv:2402.03300) favours groups that are
almost always right or wrong (Dr. GRPO, arXiv:2503.20783), so it is an option.
"""

# G groups, K trajectories of a group

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wire.spread import has_spread
from wire.trajectories import Batch, Float64Array

OVER_STD = "advantage_std"
"""The key of loss_fn_config that asks for it, 0 or 1; the engine refuses other values."""

# TRL's; without it, a group whose rewards differ by a rounding would count as much as any other.
_STD_OFFSET = 1e-4


def grouped_rewards(batch: Batch) -> Float64Array:
    """Rewards as rewards_GK; without a group_size the whole batch is one group."""
    rewards = np.array([trajectory.reward for trajectory in batch.trajectories], np.float64)
    return rewards.reshape(-1, batch.group_size or len(rewards))


def groups_without_spread(rewards_GK: Float64Array) -> npt.NDArray[np.bool_]:
    """Which groups teach nothing because all of their rewards are equal, but for roundings."""
    return ~has_spread(rewards_GK.min(axis=1), rewards_GK.max(axis=1))


def advantages(batch: Batch, *, over_std: bool = False) -> Float64Array:
    """reward_scale · (reward − group mean) of each trajectory, float64, in input order.

    over_std: divide by the group's sample standard deviation (over n − 1) + 1e-4 before scaling, as TRL does.
    Exactly 0.0 where a group has no spread (`wire.spread`), whose mean may differ from its rewards by a rounding.
    """
    rewards_GK = grouped_rewards(batch)
    centred_GK = rewards_GK - rewards_GK.mean(axis=1, keepdims=True)
    flat_G = groups_without_spread(rewards_GK)
    centred_GK[flat_G] = 0.0
    if over_std and not flat_G.all():
        centred_GK[~flat_G] /= rewards_GK[~flat_G].std(axis=1, ddof=1, keepdims=True) + _STD_OFFSET
    return batch.reward_scale * centred_GK.ravel()
