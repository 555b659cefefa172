"""What any loss may be asked for: a penalty towards the base, the group's deviation, means in place of sums."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from tests.unit.trainer.tiny import (
    LORA,
    MODEL,
    BatchEngine,
    gradients,
    mixed_batch,
    norms_in_their_own_dtype,
    opened,
    session,
    tiny_engine,
    trajectory,
    turn,
)
from trainer.engine.losses import LOSSES, LossOptions
from wire.advantages import advantages
from wire.engine import AdamParams, LossChoice
from wire.errors import InvalidRequest
from wire.trajectories import Batch

KL = LossChoice("importance_sampling", {"kl_penalty_coef": 0.5})


def alike() -> Batch:
    """A batch whose advantages are all zero."""
    return replace(mixed_batch(), trajectories=[replace(t, reward=1.0) for t in mixed_batch().trajectories])


def logprobs(engine: BatchEngine) -> list[float]:
    return np.concatenate([datum.logprobs for datum in engine.forward(MODEL, mixed_batch())]).tolist()


def base_logprobs(engine: BatchEngine) -> torch.Tensor:
    """What the engine took for the base's logprobs."""
    with patch.object(engine._base, "base_logprobs", wraps=engine._base.base_logprobs) as asked:
        engine.forward_backward(MODEL, mixed_batch(), KL)
    return engine._base.base_logprobs(*asked.call_args.args)


# Names and values


def test_the_engine_lists_the_options_with_every_loss() -> None:
    options = {
        "kl_penalty_coef": 0.0, "advantage_std": 0.0, "normalize_by_tokens": 0.0, "normalize_by_sequences": 0.0
    }  # fmt: skip
    assert tiny_engine().losses == {name: {**loss.defaults(), **options} for name, loss in LOSSES.items()}


@pytest.mark.parametrize("loss", LOSSES)
def test_no_loss_has_a_key_of_its_own_that_is_an_option(loss: str) -> None:
    assert not set(LOSSES[loss].defaults()) & set(LossOptions.defaults())


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"kl_penalty_coef": -0.1}, "kl_penalty_coef is -0.1: it must be finite and 0 or more"),
        ({"kl_penalty_coef": math.inf}, "kl_penalty_coef is inf: it must be finite"),
        ({"kl_penalty_coef": math.nan}, "kl_penalty_coef is nan: it must be finite"),
        ({"advantage_std": 0.5}, "advantage_std is 0.5: it must be 0 [(]off[)] or 1 [(]on[)]"),
        ({"normalize_by_tokens": 2.0}, "normalize_by_tokens is 2.0: it must be 0"),
        ({"normalize_by_sequences": math.nan}, "normalize_by_sequences is nan: it must be 0"),
        ({"normalize_by_tokens": 1.0, "normalize_by_sequences": 1.0}, "exclude each other: give one of them"),
    ],
)
def test_values_that_make_no_sense_are_refused(config: dict[str, float], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        opened(tiny_engine()).forward_backward(MODEL, mixed_batch(), LossChoice("ppo", config))


# Means in place of sums


def test_costs_are_scaled_by_the_lengths_of_all_datums() -> None:
    lengths = np.array([2, 3, 5])
    assert LossOptions().cost_scales(lengths).tolist() == [1, 1, 1]
    assert LossOptions(normalize_by_tokens=1).cost_scales(lengths).tolist() == [0.1, 0.1, 0.1]
    assert LossOptions(normalize_by_sequences=1).cost_scales(lengths) == pytest.approx([1 / 6, 1 / 9, 1 / 15])


def test_a_normalised_cross_entropy_is_the_mean_over_tokens_or_of_the_sequences_means() -> None:
    engine, batch = (
        opened(tiny_engine(max_tokens_per_pass=1)),
        Batch([trajectory(turn([1], [2, 3])), trajectory(turn([4, 5], [6]))]),
    )
    found = [row.logprobs[row.mask == 1] for row in engine.forward(MODEL, batch)]
    of_each = [row.mean() for row in found]
    means = {"normalize_by_tokens": np.concatenate(found).mean(), "normalize_by_sequences": np.mean(of_each)}
    for key, mean in means.items():
        result = engine.forward_backward(MODEL, batch, LossChoice("cross_entropy", {key: 1.0}))
        assert result.metrics["loss:sum"] == pytest.approx(-mean, rel=1e-6)


# The group's deviation


def test_cross_entropy_ignores_rewards_and_so_their_deviation() -> None:
    plain, over_std = opened(tiny_engine()), opened(tiny_engine())
    plain.forward_backward(MODEL, mixed_batch(), LossChoice("cross_entropy"))
    over_std.forward_backward(MODEL, mixed_batch(), LossChoice("cross_entropy", {"advantage_std": 1.0}))
    assert torch.equal(session(plain).gradient, session(over_std).gradient)


def test_the_deviation_of_one_group_scales_its_gradient() -> None:
    batch = replace(mixed_batch(), group_size=None)
    with norms_in_their_own_dtype():
        plain, over_std = opened(tiny_engine(dtype=torch.float64)), opened(tiny_engine(dtype=torch.float64))
        plain.forward_backward(MODEL, batch, LossChoice("importance_sampling"))
        over_std.forward_backward(MODEL, batch, LossChoice("importance_sampling", {"advantage_std": 1.0}))
    factor = (advantages(batch, over_std=True) / advantages(batch))[0]
    torch.testing.assert_close(session(over_std).gradient, session(plain).gradient * factor, rtol=1e-9, atol=1e-12)


# The penalty towards the base


def test_a_penalty_reports_its_mean_and_moves_groups_without_spread() -> None:
    engine = opened(tiny_engine())
    choice = LossChoice(KL.name, {**KL.config, "normalize_by_tokens": 1.0})
    metrics = engine.forward_backward(MODEL, alike(), choice).metrics
    assert metrics["kl_base:mean"] > 0
    assert metrics["loss:sum"] == pytest.approx(0.5 * metrics["kl_base:mean"], rel=1e-5)
    assert all(gradient.any() for gradient in gradients(engine).values())


def test_without_a_penalty_nothing_is_said_or_computed_of_the_base() -> None:
    engine = opened(tiny_engine())
    with patch.object(engine._base, "base_logprobs", side_effect=AssertionError):
        metrics = engine.forward_backward(MODEL, mixed_batch(), LossChoice("ppo", {"kl_penalty_coef": 0.0})).metrics
    assert "kl_base:mean" not in metrics


def test_a_step_down_the_penalty_brings_the_policy_nearer_to_the_base() -> None:
    engine = opened(tiny_engine())
    before = engine.forward_backward(MODEL, alike(), KL).metrics["kl_base:mean"]
    engine.optim_step(MODEL, AdamParams(1e-3))
    assert engine.forward_backward(MODEL, alike(), KL).metrics["kl_base:mean"] < before


def test_a_fresh_adapter_is_the_base_and_pays_nothing() -> None:
    engine = tiny_engine()
    engine.open(MODEL, LORA, None, None)
    assert engine.forward_backward(MODEL, alike(), KL).metrics["kl_base:mean"] == 0
    assert not engine.optim_step(MODEL, AdamParams(1.0)).moved


def test_the_base_is_the_same_under_every_adapter() -> None:
    one, other = opened(tiny_engine(), seed=1), opened(tiny_engine(), seed=2)
    assert torch.equal(base_logprobs(one), base_logprobs(other))
    assert not base_logprobs(one).requires_grad


def test_the_adapter_is_on_again_after_a_penalty() -> None:
    engine = opened(tiny_engine())
    before = logprobs(engine)
    engine.forward_backward(MODEL, mixed_batch(), KL)
    assert logprobs(engine) == before


def test_the_adapter_is_on_again_after_the_base_failed() -> None:
    engine, expected = opened(tiny_engine()), opened(tiny_engine())
    expected.forward_backward(MODEL, mixed_batch(), KL)
    before, real = logprobs(engine), engine._base.logprobs

    def fails_without_gradient(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            raise MemoryError
        return real(*args, **kwargs)

    with patch.object(engine._base, "logprobs", fails_without_gradient), pytest.raises(MemoryError):
        engine.forward_backward(MODEL, mixed_batch(), KL)
    assert logprobs(engine) == before
    engine.forward_backward(MODEL, mixed_batch(), KL)
    assert torch.equal(session(engine).gradient, session(expected).gradient)


def test_a_policy_too_far_from_the_base_is_refused_naming_the_input() -> None:
    engine = opened(tiny_engine(max_tokens_per_pass=1))
    with (
        patch.object(engine._base, "base_logprobs", lambda pack: torch.full((len(pack.rows_P),), 500.0)),
        pytest.raises(InvalidRequest, match=r"input \d: its loss or gradient is not finite, for the policy is too far"),
    ):
        engine.forward_backward(MODEL, mixed_batch(), KL)
    assert not session(engine).gradient.any()
