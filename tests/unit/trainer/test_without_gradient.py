"""Groups that have no gradient are scored, and go no way back: weights and figures are those of computing them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch

from tests.unit.trainer.tiny import MODEL, BatchEngine, mixed_batch, opened, session, tiny_engine
from trainer.engine import engine as engine_module
from trainer.engine.losses import LOSSES
from trainer.engine.micro_batches import MicroBatches
from trainer.engine.objective import BuiltinObjective, ClientObjective, Weighted
from trainer.engine.scores import Scores
from wire.engine import AdamParams, LossChoice
from wire.plans import PlanSettings
from wire.trajectories import Batch

PPO = LossChoice("ppo")


@pytest.fixture(autouse=True)
def apart_however_few() -> Generator[None]:
    with patch.object(engine_module, "_WORTH_A_MICRO_BATCH_TOKENS", 1):
        yield


def half_without_spread() -> Batch:
    """The first of two groups of three has equal rewards."""
    batch = mixed_batch()
    equal = [replace(one, reward=0.5) for one in batch.trajectories[:3]]
    return replace(batch, trajectories=[*equal, *batch.trajectories[3:]])


@contextmanager
def everything_computed() -> Generator[None]:
    """With a graph, and a backward of weights that are all zero."""

    def backward(_: MicroBatches, scores: Scores, weighted: Weighted) -> None:
        weights_P = torch.zeros_like(scores.logprobs_P).index_add_(0, scores.pack.inverse_N, weighted.weights_N)
        scores.logprobs_P.backward(-weights_P)

    always = {"new": lambda *_: True}
    with (
        patch.object(BuiltinObjective, "moves", **always),
        patch.object(ClientObjective, "moves", **always),
        patch.object(MicroBatches, "_backpropagate", backward),
    ):
        yield


@contextmanager
def graphs() -> Generator[list[bool]]:
    """Whether each micro-batch made one."""
    seen, score = [], MicroBatches.score

    def noted(*args: object, **kwargs: object) -> object:
        seen.append(torch.is_grad_enabled())
        return score(*args, **kwargs)

    with patch.object(MicroBatches, "score", noted):
        yield seen


def figures(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if "seconds" not in name and name != "tokens_per_s"}


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if loss.follows_advantages])
def test_weights_and_figures_are_those_of_computing_all(loss: str) -> None:
    batch, engines, results = half_without_spread(), [opened(tiny_engine()) for _ in range(2)], []
    with graphs() as made:
        results.append(engines[0].forward_backward(MODEL, batch, LossChoice(loss)))
    with everything_computed():
        results.append(engines[1].forward_backward(MODEL, batch, LossChoice(loss)))
    assert made == [True, False], "the group with spread, then the one without"
    for engine in engines:
        assert engine.optim_step(MODEL, AdamParams(1e-2)).moved
    assert torch.equal(session(engines[0]).weights, session(engines[1]).weights)
    assert figures(results[0].metrics) == figures(results[1].metrics)
    for one, other in zip(results[0].logprobs, results[1].logprobs, strict=True):
        assert np.array_equal(one, other)
        assert one.any()


@pytest.mark.parametrize(
    "choice", [LossChoice("ppo", {"kl_penalty_coef": 0.1}), LossChoice("dro"), LossChoice("cross_entropy")], ids=str
)
def test_what_has_a_gradient_without_an_advantage_goes_all_the_way(choice: LossChoice) -> None:
    equal = replace(mixed_batch(), trajectories=half_without_spread().trajectories[:3])
    engine = opened(tiny_engine())
    with graphs() as made:
        engine.forward_backward(MODEL, equal, choice)
    assert made[0]
    assert session(engine).gradient.any()


def test_a_batch_without_any_spread_moves_nothing() -> None:
    equal = replace(mixed_batch(), trajectories=half_without_spread().trajectories[:3])
    engine = opened(tiny_engine())
    with graphs() as made:
        result = engine.forward_backward(MODEL, equal, PPO)
    assert made == [False]
    assert result.metrics["entropy:mean"] > 0
    assert not engine.optim_step(MODEL, AdamParams(1e-2)).moved


def test_a_client_that_weighs_nothing_of_a_group_has_no_graph_of_it_made() -> None:
    batch, engines = half_without_spread(), [opened(tiny_engine()) for _ in range(2)]
    plan = engines[0].plan(batch)
    weights = [
        one.mask * (index >= len(plan.micro_batches[1]))
        for index, one in enumerate(engines[0].forward(MODEL, batch, plan))
    ]
    with graphs() as made:
        engines[0].backward(MODEL, batch, weights, plan)
    with everything_computed():
        engines[1].backward(MODEL, batch, weights, plan)
    assert made == [True, False]
    assert torch.equal(session(engines[0]).gradient, session(engines[1]).gradient)
    assert session(engines[0]).gradient.any()


def test_what_an_earlier_version_planned_by_its_settings_keeps_its_micro_batches() -> None:
    engine: BatchEngine = tiny_engine()
    assert len(engine.plan(half_without_spread()).micro_batches) == 2
    assert len(engine.plan(half_without_spread(), settings=PlanSettings(4096, 1)).micro_batches) == 1
