"""A GRPO step of ours is the GRPO step of TRL: one step of its own trainer, whose rollouts were recorded beforehand.

TRL computes rewards' advantages, masks, reference logprobs, loss and gradient by itself. It gets each rollout as one
sequence with the environment's tokens masked out; the engine gets turns that repeat their history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.trainer.naive import worst_relative_error
from tests.unit.trainer.tiny import MODEL, VOCAB, BatchEngine, gradients, opened, rollout, tiny_engine
from wire.engine import LossChoice
from wire.trajectories import Batch

GROUPS, GROUP_SIZE, MAX_OUTPUT = 2, 4, 32
NUM_ROLLOUTS = GROUPS * GROUP_SIZE

pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass(frozen=True)
class Case:
    """The same objective in TRL's words and in ours. scale: what TRL's loss is of ours."""

    trl: Mapping[str, Any]
    ours: LossChoice
    scale: float = 1.0
    micro_batches: int = field(default=1, kw_only=True)


PLAIN, STD = {"scale_rewards": "none"}, {"scale_rewards": "group"}
CASES = {
    "Dr. GRPO": Case(
        {"loss_type": "dr_grpo", **PLAIN},
        LossChoice("dr_grpo", {"max_output_tokens": MAX_OUTPUT}),
        scale=1 / NUM_ROLLOUTS,
    ),
    "Dr. GRPO by its sums, in two micro-batches, with a penalty": Case(
        {"loss_type": "dr_grpo", **PLAIN, "beta": 0.3},
        LossChoice("ppo", {"kl_penalty_coef": 0.3}),
        scale=1 / (NUM_ROLLOUTS * MAX_OUTPUT),
        micro_batches=2,
    ),
    "GRPO": Case(
        {"loss_type": "grpo", **STD, "beta": 0.3},
        LossChoice("ppo", {"normalize_by_sequences": 1, "advantage_std": 1, "kl_penalty_coef": 0.3}),
    ),
    "BNPO": Case({"loss_type": "bnpo", **STD}, LossChoice("ppo", {"normalize_by_tokens": 1, "advantage_std": 1})),
    "DAPO in two micro-batches": Case(
        {"loss_type": "dapo", **STD, "epsilon_high": 0.28},
        LossChoice("ppo", {"normalize_by_tokens": 1, "advantage_std": 1, "clip_high_threshold": 1.28}),
        micro_batches=2,
    ),
    "CISPO": Case(
        {"loss_type": "cispo", **STD, "epsilon_high": 1.5},
        LossChoice("cispo", {"normalize_by_tokens": 1, "advantage_std": 1, "clip_high_threshold": 1.5}),
    ),
    "GSPO": Case(
        {"loss_type": "grpo", **STD, "importance_sampling_level": "sequence", "epsilon": 3e-2, "epsilon_high": 4e-2},
        LossChoice(
            "gspo",
            {
                "normalize_by_sequences": 1,
                "advantage_std": 1,
                "clip_low_threshold": 0.97,
                "clip_high_threshold": 1.04,
            },
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_step_has_the_gradient_of_trl(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    engine = opened(tiny_engine())
    batch = off_policy_batch(engine)
    expected = trl_gradients(engine, batch, case, tmp_path)
    engine.forward_backward(MODEL, batch, case.ours)
    found = {name: case.scale * gradient for name, gradient in gradients(engine).items()}
    assert worst_relative_error(found, expected) <= 1e-5


def test_the_comparison_tells_a_wrong_hyperparameter(tmp_path: Path) -> None:
    engine = opened(tiny_engine())
    batch = off_policy_batch(engine)
    expected = trl_gradients(engine, batch, CASES["GRPO"], tmp_path)
    config = {**CASES["GRPO"].ours.config, "kl_penalty_coef": 0.29}
    engine.forward_backward(MODEL, batch, LossChoice("ppo", config))
    assert worst_relative_error(gradients(engine), expected) > 1e-3


def off_policy_batch(engine: BatchEngine) -> Batch:
    """Rollouts of one to three turns. Their sampling logprobs are the policy's own, moved to either side of the
    clipping ranges but never so near an edge that rounding decides."""
    rng = np.random.default_rng(5)
    prompts = [rng.integers(0, VOCAB, 5 + 2 * group).tolist() for group in range(GROUPS)]
    rollouts = [rollout(rng, prompts[i // GROUP_SIZE], 1 + i % 3, float(rng.random())) for i in range(NUM_ROLLOUTS)]
    batch = Batch(rollouts, group_size=GROUP_SIZE)
    trajectories = []
    for scored, trajectory in zip(engine.forward(MODEL, batch), rollouts, strict=True):
        logprobs = scored.logprobs[scored.mask > 0]
        moved = (logprobs + rng.choice([-0.6, -0.1, 0.0, 0.1, 0.6], len(logprobs))).astype(np.float32)
        rows = np.split(moved, np.cumsum([len(turn.output_ids) for turn in trajectory.turns])[:-1])
        turns = [replace(turn, sampling_logprobs=row) for turn, row in zip(trajectory.turns, rows, strict=True)]
        trajectories.append(replace(trajectory, turns=tuple(turns)))
    return replace(batch, trajectories=trajectories)


def trl_gradients(engine: BatchEngine, batch: Batch, case: Case, folder: Path) -> dict[str, torch.Tensor]:
    from tests.golden.trl_step import gradients_of_trl  # TRL takes seconds to import, wherever tests are collected

    options = {
        "per_device_train_batch_size": NUM_ROLLOUTS // case.micro_batches,
        "gradient_accumulation_steps": case.micro_batches,
        "max_completion_length": MAX_OUTPUT,
        **case.trl,
    }
    return gradients_of_trl(engine, batch, options, folder)
