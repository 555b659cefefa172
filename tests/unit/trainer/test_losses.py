from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch

from trainer.engine.losses import LOSSES, ActionTokens, make_loss
from wire.engine import LossChoice
from wire.errors import InvalidRequest

# π − q of five tokens: r = 0.5, 1, 1.1, 1.5 and 8; each with an advantage of both signs.
LOG_RATIOS = [math.log(r) for r in (0.5, 1.0, 1.1, 1.5, 8.0)]
SAMPLING = [-3.0, -2.0, -2.5, -4.0, -5.0]
RATIOS = [0.5, 1.0, 1.1, 1.5, 8.0]
# Of the two sequences, tokens 0 and 1, and 2 to 4: √0.5 and ∛13.2.
SEQUENCE_RATIOS = [0.5**0.5] * 2 + [13.2 ** (1 / 3)] * 3


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


def test_gspo_gives_nothing_for_a_good_sequence_above_the_range() -> None:
    cost, weights = cost_and_weights("gspo", advantage=2.0)
    assert cost == pytest.approx(-2 * (2 * 0.5**0.5 + 3 * 1.0004))
    assert weights == pytest.approx([2 * 0.5**0.5] * 2 + [0] * 3)


def test_gspo_clips_a_bad_sequence_below_the_range_and_not_above() -> None:
    cost, weights = cost_and_weights("gspo", advantage=-1.0)
    assert cost == pytest.approx(2 * 0.9997 + 3 * 13.2 ** (1 / 3))
    assert weights == pytest.approx([0] * 2 + [-(13.2 ** (1 / 3))] * 3)


def test_gspo_weighs_each_token_by_its_sequences_ratio() -> None:
    cost, weights = cost_and_weights("gspo", clip_low_threshold=0.0, clip_high_threshold=9.0)
    assert weights == pytest.approx(SEQUENCE_RATIOS)
    assert cost == pytest.approx(-sum(SEQUENCE_RATIOS))


def test_gspo_takes_a_sequence_for_the_same_whatever_else_is_in_the_batch() -> None:
    both = tokens()
    alone = ActionTokens(
        both.logprobs_N[2:], both.sampling_logprobs_N[2:], both.advantages_N[2:], torch.zeros(3, dtype=torch.int64), 1
    )
    gspo = make_loss(LossChoice("gspo", {"clip_high_threshold": 9.0}))
    assert torch.equal(gspo(alone).costs_N, gspo(both).costs_N[2:])


def test_dr_grpo_is_ppo_over_a_constant_length() -> None:
    cost, weights = cost_and_weights("dr_grpo", advantage=2.0, max_output_tokens=16.0)
    assert cost == pytest.approx(-2 * (0.5 + 1.0 + 1.1 + 1.2 + 1.2) / 16)
    assert weights == pytest.approx([w / 16 for w in (1.0, 2.0, 2.2, 0, 0)])
    assert cost_and_weights("dr_grpo", -3.0) == cost_and_weights("ppo", -3.0)


def test_truncated_importance_sampling_caps_the_weight_and_keeps_the_gradient() -> None:
    cost, weights = cost_and_weights("truncated_importance_sampling", advantage=3.0)
    expected = [1.5, 3.0, 3.3, 4.5, 6.0]
    assert weights == pytest.approx(expected)
    logprobs = [q + d for q, d in zip(SAMPLING, LOG_RATIOS, strict=True)]
    assert cost == pytest.approx(-sum(w * p for w, p in zip(expected, logprobs, strict=True)))
    assert cost_and_weights("truncated_importance_sampling", cap=3.0) == cost_and_weights(
        "cispo", clip_high_threshold=3.0
    )


def test_an_option_leaves_the_loss_itself_as_it_is() -> None:
    assert cost_and_weights("ppo", kl_penalty_coef=0.1, advantage_std=1.0, epsilon=0.3) == cost_and_weights(
        "ppo", epsilon=0.3
    )


# The weights of these two are detached. Values of gspo are too, yet its slope is that of the undetached sequence form.
@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"cispo", "truncated_importance_sampling"}))
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


@pytest.mark.parametrize("name", ["ppo", "cispo", "gspo", "dr_grpo", "truncated_importance_sampling"])
def test_a_ratio_that_overflows_leaves_a_clipped_loss_finite(name: str) -> None:
    batch = tokens(log_ratios=[1e4] * 5)
    costs = make_loss(LossChoice(name))(batch)
    (slope,) = torch.autograd.grad(costs.costs_N.sum(), batch.logprobs_N)
    assert slope.isfinite().all()
    assert costs.clipped_N is not None
    assert costs.clipped_N.all()


def test_two_losses_have_a_gradient_without_an_advantage() -> None:
    assert {name for name, loss in LOSSES.items() if not loss.follows_advantages} == {"cross_entropy", "dro"}
    assert all(all(cost_and_weights(name, advantage=0.0)[1][2:]) for name in ("cross_entropy", "dro"))


@pytest.mark.parametrize("name", sorted(name for name, loss in LOSSES.items() if loss.follows_advantages))
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
        ("gspo", {"clip_low_threshold": 1.1}, "0 <= low <= high"),
        ("dr_grpo", {"clip_high_threshold": 0.1}, "0 <= low <= high"),
        ("dr_grpo", {"max_output_tokens": 0.0}, "max_output_tokens is 0.0: it must be 1 or more"),
        ("truncated_importance_sampling", {"cap": 0.0}, "cap is 0.0: it must be above 0"),
        ("dro", {"gamma": 1.0}, "this loss knows beta; every loss knows kl_penalty_coef, advantage_std, normalize_by"),
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
        "gspo": {"clip_low_threshold": 0.9997, "clip_high_threshold": 1.0004},
        "dr_grpo": {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2, "max_output_tokens": 1.0},
        "truncated_importance_sampling": {"cap": 2.0},
    }
