"""Group-relative advantages: how much better than its group a rollout did.

Centred only. Dividing by the group's standard deviation (GRPO, arXiv:2402.03300) favours groups that are almost
always right or wrong (Dr. GRPO, arXiv:2503.20783), so it is left out.
"""

# G groups, K trajectories of a group

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wire.trajectories import Batch

Float64Array = npt.NDArray[np.float64]


def grouped_rewards(batch: Batch) -> Float64Array:
    """Rewards as rewards_GK; without a group_size the whole batch is one group."""
    rewards = np.array([trajectory.reward for trajectory in batch.trajectories], np.float64)
    return rewards.reshape(-1, batch.group_size or len(rewards))


def groups_without_spread(rewards_GK: Float64Array) -> npt.NDArray[np.bool_]:
    """Which groups teach nothing because all of their rewards are equal."""
    return (rewards_GK == rewards_GK[:, :1]).all(axis=1)


def advantages(batch: Batch) -> Float64Array:
    """reward_scale · (reward − group mean) of each trajectory, float64, in input order.

    Exactly 0.0 where a group has no spread: the mean of equal floats may differ from them by a rounding, and a
    gradient of 1e-17 is a full step to Adam.
    """
    rewards_GK = grouped_rewards(batch)
    centred_GK = rewards_GK - rewards_GK.mean(axis=1, keepdims=True)
    centred_GK[groups_without_spread(rewards_GK)] = 0.0
    return batch.reward_scale * centred_GK.ravel()
