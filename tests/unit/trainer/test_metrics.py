"""docs/metrics.md and what passes and steps report are one list."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.unit.trainer.pictured import pictured_batch, sighted
from tests.unit.trainer.tiny import MODEL, mixed_batch, opened, tiny_engine, trajectory, turn
from trainer.engine.losses import LOSSES
from trainer.worker.summaries import logged_figures
from wire.engine import AdamParams, LossChoice
from wire.trajectories import Batch

# What the worker adds to a step's figures (test_kept_states.py and test_lost_answers.py see it there).
OF_THE_WORKER = {"fresh_moments", "passes_left_out"}
# What the server tells of recorded rollouts (tests/contract/test_training_by_id.py).
OF_THE_SERVER = {"staleness:mean", "staleness:max", "off_policy_samples:sum"}
DOCUMENTED = re.findall(r"^\| `([^`]+)` \|", Path("docs/metrics.md").read_text(), re.MULTILINE)


def reported() -> set[str]:
    engine, batch, names = opened(tiny_engine()), mixed_batch(), set[str]()
    for loss in LOSSES:
        names |= set(engine.forward_backward(MODEL, batch, LossChoice(loss)).metrics)
    names |= set(engine.forward_backward(MODEL, batch, LossChoice("ppo", {"kl_penalty_coef": 0.1})).metrics)
    names |= set(engine.backward(MODEL, batch, [datum.mask for datum in engine.forward(MODEL, batch)]).metrics)
    sees = sighted("qwen3_vl")
    shown = opened(sees.engine()).forward_backward(MODEL, pictured_batch(sees), LossChoice("ppo"))
    names |= set(shown.metrics)
    return names | set(engine.optim_step(MODEL, AdamParams(1e-3, max_grad_norm=1.0)).metrics)


def test_every_figure_is_documented_and_every_documented_figure_is_reported() -> None:
    assert len(DOCUMENTED) == len(set(DOCUMENTED))
    assert reported() | OF_THE_WORKER | OF_THE_SERVER == set(DOCUMENTED)


def test_names_have_at_most_one_reduction() -> None:
    assert all(re.fullmatch(r"[a-z0-9_]+(:(sum|mean|min|max))?", name) for name in DOCUMENTED)


def test_both_estimates_of_the_kl_are_those_of_the_papers() -> None:
    engine, batch = opened(tiny_engine()), Batch([trajectory(turn([1, 2], [3, 4, 5], [-2.0, -9.0, -4.0]))])
    (datum,) = engine.forward(MODEL, batch)
    gaps = (datum.logprobs - datum.sampling_logprobs)[datum.mask == 1].astype(np.float64)
    metrics = engine.forward_backward(MODEL, batch, LossChoice("ppo")).metrics
    assert metrics["kl_sampling_trainer:mean"] == pytest.approx(-gaps.mean())
    assert metrics["kl_sampling_trainer_k3:mean"] == pytest.approx((np.exp(gaps) - 1 - gaps).mean())


def test_tokens_are_counted_as_sent_as_merged_and_as_computed() -> None:
    turns = turn([1, 2, 3], [4]), turn([1, 2, 3, 4, 5], [6, 7])
    metrics = opened(tiny_engine()).forward_backward(MODEL, Batch([trajectory(*turns)] * 2), LossChoice("dro")).metrics
    assert metrics["tokens:sum"] == 2 * 3
    assert metrics["tokens_sent:sum"] == 2 * (4 + 7)
    assert metrics["tokens_merged:sum"] == 2 * (7 - 1)
    assert metrics["sharing_ratio"] == metrics["tokens_merged:sum"] / metrics["tokens_computed:sum"]


def test_a_log_line_holds_the_main_figures_in_few_digits() -> None:
    assert logged_figures({"loss:sum": 1.23456789, "max_tokens_per_pass": 4096.0}) == {"loss:sum": 1.2346}
