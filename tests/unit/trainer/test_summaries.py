from __future__ import annotations

import math
from typing import Any

from trainer.worker.summaries import summarise_pass, summarise_step
from wire.engine import AdamParams, PassResult, StepResult


def a_pass(num_traces: int, loss_fn: str = "ppo", **metrics: float) -> dict[str, Any]:
    named = {name.replace("__", ":"): value for name, value in metrics.items()}
    result = PassResult(named, num_datums=num_traces + 1, num_tokens=10 * num_traces)
    return summarise_pass(result, named, num_traces, loss_fn)


def test_sums_add_extremes_stay_and_the_rest_is_weighted_by_trajectories():
    passes = [
        a_pass(1, loss__sum=-2.0, reward_mean=1.0, reward_min=1.0, ratio__max=1.5),
        a_pass(3, loss__sum=1.0, reward_mean=0.0, reward_min=-1.0, ratio__max=1.2),
    ]
    facts = summarise_step(passes, StepResult({"grad_norm": 4.0}, moved=True), AdamParams(1e-3))
    assert facts["metrics"] == {
        "loss:sum": -1.0,
        "reward_mean": 0.25,
        "reward_min": -1.0,
        "ratio:max": 1.5,
        "grad_norm": 4.0,
    }
    assert (facts["num_traces"], facts["num_datums"], facts["num_tokens"]) == (4, 6, 40)
    assert (facts["mean_reward"], facts["learning_rate"], facts["loss_fn"]) == (0.25, 1e-3, "ppo")


def test_losses_of_one_step_are_named_once_each():
    facts = summarise_step([a_pass(1), a_pass(1), a_pass(1, "dro")], StepResult({}, moved=True), AdamParams(1e-3))
    assert facts["loss_fn"] == "ppo,dro"
    assert facts["mean_reward"] is None


def test_a_metric_that_json_cannot_hold_is_left_out():
    facts = summarise_step([a_pass(1, mine=math.inf, good=1.0)], StepResult({}, moved=True), AdamParams(1e-3))
    assert facts["metrics"] == {"good": 1.0}
