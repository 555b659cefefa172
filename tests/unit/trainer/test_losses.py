from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch

from trainer.losses import LOSSES, ActionTokens, Costs, make_loss
from trainer.losses.base import Loss
from wire.engine import LossChoice
from wire.errors import InvalidRequest

# π − q of five tokens: r = 0.5, 1, 1.1, 1.5 and 8; each with an advantage of both signs.
LOG_RATIOS = [math.log(r) for r in (0.5, 1.0, 1.1, 1.5, 8.0)]
SAMPLING = [-3.0, -2.0, -2.5, -4.0, -5.0]
RATIOS = [0.5, 1.0, 1.1, 1.5, 8.0]


def tokens(advantage: float = 1.0, log_ratios: list[float] | None = None) -> ActionTokens:
    sampling = torch.tensor(SAMPLING, dtype=torch.float64)
    logprobs = sampling + torch.tensor(log_ratios or LOG_RATIOS, dtype=torch.float64)
    return ActionTokens(
        logprobs.requires_grad_(), sampling, torch.full_like(sampling, advantage), torch.tensor([0, 0, 1, 1, 1]), 2
    )


def cost_and_weights(name: str, advantage: float = 1.0, **config: float) -> tuple[float, list[float]]:
    batch = tokens(advantage)
    cost = make_loss(LossChoice(name, config))(batch).costs_N.sum()
    (slope,) = torch.autograd.grad(cost, batch.logprobs_N)
    return cost.item(), (-slope).tolist()


def test_cross_entropy_costs_the_logprobs_whatever_the_advantage() -> None:
    cost, weights = cost_and_weights("cross_entropy", advantage=-7.0)
    assert cost == pytest.approx(-sum(q + d for q, d in zip(SAMPLING, LOG_RATIOS, strict=True)))
    assert weights == [1, 1, 1, 1, 1]


def test_importance_sampling_weighs_by_ratio_times_advantage() -> None:
    cost, weights = cost_and_weights("importance_sampling", advantage=2.0)
    assert cost == pytest.approx(-2 * 12.1)
    assert weights == pytest.approx([2 * r for r in RATIOS])


def test_ppo_gives_nothing_for_a_good_token_above_the_range() -> None:
    cost, weights = cost_and_weights("ppo")
    assert cost == pytest.approx(-(0.5 + 1.0 + 1.1 + 1.2 + 1.2))
    assert weights == pytest.approx([0.5, 1.0, 1.1, 0, 0])


def test_ppo_clips_a_bad_token_below_the_range_and_not_above() -> None:
    cost, weights = cost_and_weights("ppo", advantage=-1.0)
    assert cost == pytest.approx(0.8 + 1.0 + 1.1 + 1.5 + 8.0)
    assert weights == pytest.approx([0, -1.0, -1.1, -1.5, -8.0])


def test_epsilon_is_short_for_a_range_around_one() -> None:
    assert cost_and_weights("ppo", epsilon=0.6) == cost_and_weights(
        "ppo", clip_low_threshold=0.4, clip_high_threshold=1.6
    )


def test_cispo_bounds_the_weight_but_keeps_a_gradient_on_every_token() -> None:
    cost, weights = cost_and_weights("cispo", advantage=2.0)
    expected = [2 * min(r, 4.0) for r in RATIOS]
    assert weights == pytest.approx(expected)
    logprobs = [q + d for q, d in zip(SAMPLING, LOG_RATIOS, strict=True)]
    assert cost == pytest.approx(-sum(w * p for w, p in zip(expected, logprobs, strict=True)))


def test_dro_pulls_towards_the_sampling_policy() -> None:
    cost, weights = cost_and_weights("dro", advantage=2.0, beta=0.5)
    assert weights == pytest.approx([2.0 - 0.5 * d for d in LOG_RATIOS])
    logprobs = [q + d for q, d in zip(SAMPLING, LOG_RATIOS, strict=True)]
    assert cost == pytest.approx(-sum(2 * p - 0.25 * d * d for p, d in zip(logprobs, LOG_RATIOS, strict=True)))


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"cispo"}))  # cispo's weight is detached
def test_the_gradient_of_a_loss_is_numerically_its_slope(name: str) -> None:
    batch = tokens()
    loss = make_loss(LossChoice(name))

    def cost(logprobs: torch.Tensor) -> torch.Tensor:
        again = ActionTokens(logprobs, batch.sampling_logprobs_N, batch.advantages_N, batch.sequences_N, 2)
        return loss(again).costs_N.sum()

    assert torch.autograd.gradcheck(cost, (batch.logprobs_N,))


def test_on_policy_importance_sampling_is_cross_entropy_weighted_by_the_advantage() -> None:
    batch = tokens(advantage=0.7, log_ratios=[0.0] * 5)
    cost = make_loss(LossChoice("importance_sampling"))(batch).costs_N.sum()
    (slope,) = torch.autograd.grad(cost, batch.logprobs_N)
    assert slope.tolist() == pytest.approx([-0.7] * 5)


@pytest.mark.parametrize("name", ["ppo", "cispo"])
def test_a_ratio_that_overflows_leaves_a_clipped_loss_finite(name: str) -> None:
    batch = tokens(log_ratios=[1e4] * 5)
    costs = make_loss(LossChoice(name))(batch)
    (slope,) = torch.autograd.grad(costs.costs_N.sum(), batch.logprobs_N)
    assert slope.isfinite().all()
    assert costs.clipped_N is not None
    assert costs.clipped_N.all()


@pytest.mark.parametrize("name", ["importance_sampling", "ppo", "cispo"])
def test_a_token_without_advantage_weighs_nothing_even_if_its_ratio_overflows(name: str) -> None:
    batch = tokens(advantage=0.0, log_ratios=[1e4] * 5)
    cost = make_loss(LossChoice(name))(batch).costs_N.sum()
    (slope,) = torch.autograd.grad(cost, batch.logprobs_N)
    assert (cost.item(), slope.tolist()) == (0, [0] * 5)


def test_an_unknown_loss_is_refused_with_the_known_names() -> None:
    with pytest.raises(InvalidRequest, match=r"'grpo'.*cross_entropy, importance_sampling, ppo, cispo, dro"):
        make_loss(LossChoice("grpo"))


@pytest.mark.parametrize(
    ("name", "config", "sentence"),
    [
        ("ppo", {"clip": 0.2}, "unknown loss_fn_config key 'clip'.*clip_low_threshold, clip_high_threshold, epsilon"),
        ("cross_entropy", {"beta": 1.0}, "no hyperparameters"),
        ("ppo", {"clip_low_threshold": 1.5}, "0 <= low <= high"),
        ("cispo", {"clip_low_threshold": -0.1}, "0 <= low <= high"),
        ("ppo", {"epsilon": 0.1, "clip_low_threshold": 0.8}, "give it or them"),
        ("ppo", {"epsilon": 1.5}, "from 0 to 1"),
        ("cispo", {"clip_high_threshold": math.inf}, "must be finite"),
        ("dro", {"beta": math.nan}, "must be finite"),
        ("dro", {"beta": -1.0}, "0 or more"),
    ],
)
def test_hyperparameters_that_make_no_sense_are_refused(name: str, config: Mapping[str, float], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        make_loss(LossChoice(name, config))


def test_defaults_are_those_of_the_reference() -> None:
    assert {name: loss.defaults() for name, loss in LOSSES.items()} == {
        "cross_entropy": {},
        "importance_sampling": {},
        "ppo": {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2, "epsilon": None},
        "cispo": {"clip_low_threshold": 0.0, "clip_high_threshold": 4.0},
        "dro": {"beta": 0.05},
    }


@dataclass(frozen=True, slots=True)
class SequenceRatio(Loss):
    """r is the mean over a sequence, as a sequence-level loss has it."""

    scale: float = 1.0

    def __call__(self, tokens: ActionTokens) -> Costs:
        def per_sequence(values_N: torch.Tensor) -> torch.Tensor:
            return torch.zeros(tokens.num_sequences, dtype=values_N.dtype).index_add(0, tokens.sequences_N, values_N)

        drift_N = tokens.logprobs_N - tokens.sampling_logprobs_N
        means_S = per_sequence(drift_N) / per_sequence(torch.ones_like(drift_N))
        return Costs(-self.scale * means_S.exp()[tokens.sequences_N] * tokens.advantages_N)


def test_a_loss_may_reduce_over_sequences() -> None:
    batch = tokens(advantage=1.0)
    cost = SequenceRatio.from_config({"scale": 2.0})(batch).costs_N.sum()
    means = [sum(LOG_RATIOS[:2]) / 2, sum(LOG_RATIOS[2:]) / 3]
    assert cost.item() == pytest.approx(-2 * (2 * math.exp(means[0]) + 3 * math.exp(means[1])))
