"""What the engine promises its callers: all or none, nothing mixed, the same bits again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import torch

from tests.unit.trainer.tiny import (
    CONTEXT,
    LORA,
    MODEL,
    OTHER,
    VOCAB,
    BatchEngine,
    gradients,
    mixed_batch,
    opened,
    session,
    tiny_engine,
    trajectory,
    turn,
)
from trainer.engine.canary import _SAFE_WEIGHT, compute_canary, may_overflow
from trainer.engine.losses import LOSSES, ActionTokens, make_loss
from wire.advantages import advantages
from wire.conversion import to_datums
from wire.datums import by_trajectory
from wire.engine import AdamParams, DatumTensors, LoraConfig, LossChoice
from wire.errors import Conflict, HeadwayError, InvalidRequest, NonFinite, NotFound
from wire.trajectories import Batch, Trajectory

IS = LossChoice("importance_sampling")
STEP = AdamParams(1e-2)


def held(engine: BatchEngine, model: UUID = MODEL) -> list[torch.Tensor]:
    s = session(engine, model)
    return [s.weights.clone(), s.gradient.clone(), s.exp_avg.clone(), s.exp_avg_sq.clone(), torch.tensor(s.num_steps)]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, a, b))


def train(engine: BatchEngine, model: UUID, seed: int) -> None:
    engine.forward_backward(model, mixed_batch(seed), IS)
    engine.forward_backward(model, mixed_batch(seed + 1), LossChoice("ppo"))
    engine.optim_step(model, STEP)


# Two models


@pytest.mark.parametrize("other", [LORA, LoraConfig(rank=5, alpha=7)], ids=["of one shape", "of two shapes"])
def test_models_that_take_turns_end_in_the_bits_they_have_alone(other: LoraConfig) -> None:
    alone = [opened(tiny_engine(), MODEL), opened(tiny_engine(), OTHER, seed=5, lora=other)]
    for round_ in range(2):
        train(alone[0], MODEL, round_)
        train(alone[1], OTHER, 10 + round_)
    both = opened(opened(tiny_engine(), MODEL), OTHER, seed=5, lora=other)
    for round_ in range(2):
        both.forward_backward(MODEL, mixed_batch(round_), IS)
        both.forward_backward(OTHER, mixed_batch(10 + round_), IS)
        both.forward(OTHER, mixed_batch(3))
        both.forward_backward(MODEL, mixed_batch(round_ + 1), LossChoice("ppo"))
        both.forward_backward(OTHER, mixed_batch(11 + round_), LossChoice("ppo"))
        both.optim_step(OTHER, STEP)
        both.optim_step(MODEL, STEP)
    assert same(held(both, MODEL), held(alone[0], MODEL))
    assert same(held(both, OTHER), held(alone[1], OTHER))


def test_the_same_calls_give_the_same_bits() -> None:
    engines = [opened(tiny_engine(max_tokens_per_pass=30)) for _ in range(2)]
    for engine in engines:
        train(engine, MODEL, 0)
    assert same(held(engines[0]), held(engines[1]))


def test_opening_again_replaces_what_was_held() -> None:
    engine = opened(tiny_engine())
    train(engine, MODEL, 0)
    engine.forward_backward(MODEL, mixed_batch(), IS)
    engine.open(MODEL, LORA, None, None)
    fresh = tiny_engine()
    fresh.open(MODEL, LORA, None, None)
    assert same(held(engine), held(fresh))


def test_a_closed_model_is_not_there() -> None:
    engine = opened(tiny_engine())
    engine.close(MODEL)
    engine.close(OTHER)
    with pytest.raises(NotFound, match="not open"):
        engine.forward_backward(MODEL, mixed_batch(), IS)


def test_the_start_depends_on_the_seed_alone() -> None:
    engine = tiny_engine()
    starts = []
    for lora in (LORA, LORA, LoraConfig(LORA.rank, LORA.alpha, init_seed=1)):
        torch.manual_seed(len(starts))
        engine.open(MODEL, lora, None, None)
        starts.append(held(engine)[0])
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_a_fresh_adapter_computes_the_base_model() -> None:
    engine = tiny_engine()
    engine.open(MODEL, LORA, None, None)
    views = dict(zip(session(engine).layout.names, session(engine).layout.views(held(engine)[0]), strict=True))
    assert all(bool(view.any()) == (".lora_A." in name) for name, view in views.items())


# Gradients


def test_gradients_accumulate_over_calls() -> None:
    engine = opened(tiny_engine())
    engine.forward_backward(MODEL, mixed_batch(0), IS)
    first = gradients(engine)
    engine.forward_backward(MODEL, mixed_batch(1), LossChoice("dro"))
    alone = opened(tiny_engine())
    alone.forward_backward(MODEL, mixed_batch(1), LossChoice("dro"))
    both = {name: gradient + first[name] for name, gradient in gradients(alone).items()}
    assert all(torch.equal(gradient, both[name]) for name, gradient in gradients(engine).items())


@pytest.mark.parametrize(("max_tokens", "num_substeps"), [(4096, 2), (4096, 5), (1, 1), (45, 3)])
def test_how_a_batch_is_split_changes_rounding_only(max_tokens: int, num_substeps: int) -> None:
    whole, split = opened(tiny_engine()), opened(tiny_engine(max_tokens_per_pass=max_tokens))
    a = whole.forward_backward(MODEL, mixed_batch(), LossChoice("ppo"))
    b = split.forward_backward(MODEL, mixed_batch(), LossChoice("ppo", num_substeps=num_substeps))
    torch.testing.assert_close(session(split).gradient, session(whole).gradient, rtol=1e-4, atol=1e-5)
    assert b.metrics["micro_batches:sum"] > a.metrics["micro_batches:sum"] == 1
    for name in ("loss:sum", "ratio:mean", "entropy:mean", "clip_fraction:mean", "tokens:sum", "reward_mean"):
        assert b.metrics[name] == pytest.approx(a.metrics[name], rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_sent_by_a_client_give_the_bits_of_the_loss_they_came_from(name: str) -> None:
    builtin, custom, batch = opened(tiny_engine()), opened(tiny_engine()), mixed_batch()
    builtin.forward_backward(MODEL, batch, LossChoice(name))
    weights = [_weights(name, batch, datum) for datum in custom.forward(MODEL, batch)]
    result = custom.backward(MODEL, batch, weights)
    assert torch.equal(session(custom).gradient, session(builtin).gradient)
    assert result.num_datums == len(weights)


def _weights(name: str, batch: Batch, datum: DatumTensors) -> np.ndarray:
    """−dC/dlogprobs by the letter, in float32 as a client would."""
    acted, weights = datum.mask == 1, np.zeros_like(datum.mask)
    logprobs = torch.tensor(datum.logprobs[acted], requires_grad=True)
    advantage = torch.full_like(logprobs, float(advantages(batch)[datum.trajectory_index]))
    sequences = torch.zeros(len(logprobs), dtype=torch.int64)
    tokens = ActionTokens(logprobs, torch.tensor(datum.sampling_logprobs[acted]), advantage, sequences, 1)
    make_loss(LossChoice(name))(tokens).costs_N.sum().backward()
    assert logprobs.grad is not None
    weights[acted] = -logprobs.grad.numpy()
    return weights


def test_weights_where_nothing_was_sampled_are_ignored() -> None:
    engine, batch = opened(tiny_engine()), mixed_batch()
    datums = engine.forward(MODEL, batch)
    engine.backward(MODEL, batch, [d.mask for d in datums])
    expected = held(engine)[1]
    noisy = opened(tiny_engine())
    noisy.backward(MODEL, batch, [np.where(d.mask == 1, 1, np.nan).astype(np.float32) for d in datums])
    assert torch.equal(session(noisy).gradient, expected)


def test_a_positive_weight_makes_its_token_likelier() -> None:
    engine, batch = opened(tiny_engine()), Batch([trajectory(turn([1, 2], [3]))])
    (before,) = engine.forward(MODEL, batch)
    engine.backward(MODEL, batch, [np.array([0, 1], np.float32)])
    engine.optim_step(MODEL, STEP)
    (after,) = engine.forward(MODEL, batch)
    assert after.logprobs[1] > before.logprobs[1]


def test_forward_changes_nothing() -> None:
    engine = opened(tiny_engine())
    train(engine, MODEL, 0)
    engine.forward_backward(MODEL, mixed_batch(), IS)
    before = held(engine)
    engine.forward(MODEL, mixed_batch(1))
    assert same(held(engine), before)


@pytest.mark.parametrize(("max_tokens", "num_substeps"), [(4096, 1), (9, 1), (4096, 3)])
def test_a_pass_tells_what_it_made_of_each_output_token_turn_by_turn(max_tokens: int, num_substeps: int) -> None:
    goes_on = turn([1, 2, 3], [4, 5]), turn([1, 2, 3, 4, 5, 6], [7])
    edited = turn([1, 2, 9], [4, 5, 8]), turn([3, 3], [1]), turn([3, 3, 1, 2], [6, 6])
    batch = Batch([trajectory(*goes_on), trajectory(*edited), trajectory(*goes_on[:1]), trajectory(*edited[::-1])])
    engine = opened(tiny_engine(max_tokens_per_pass=max_tokens))
    told = engine.forward_backward(MODEL, batch, LossChoice("dro", num_substeps=num_substeps)).logprobs
    assert told is not None
    rows = dict(zip(engine.datums(batch), told, strict=True))
    for datums, one in zip(by_trajectory(list(rows)), batch.trajectories, strict=True):
        row = np.concatenate([rows[datum] for datum in datums])
        alone = [engine.forward(MODEL, Batch([trajectory(each)]))[0] for each in one.turns]
        assert row.dtype == np.float32
        np.testing.assert_allclose(row, np.concatenate([datum.logprobs[datum.mask == 1] for datum in alone]), atol=1e-5)


@pytest.mark.parametrize("name", ["importance_sampling", "ppo", "cispo"])
def test_groups_without_spread_leave_a_gradient_of_exactly_zero(name: str) -> None:
    engine = opened(tiny_engine())
    alike = replace(mixed_batch(), trajectories=[replace(t, reward=0.1) for t in mixed_batch().trajectories])
    result = engine.forward_backward(MODEL, alike, LossChoice(name))
    before = held(engine)
    assert result.metrics["groups_without_spread"] == 1
    assert not session(engine).gradient.any()
    assert not engine.optim_step(MODEL, AdamParams(1.0, weight_decay=1.0)).moved
    assert same(held(engine), before)


def on_policy(engine: BatchEngine, batch: Batch) -> Batch:
    """The batch with the engine's own logprobs as those of the sampler."""
    rows = iter(d.logprobs[d.mask == 1] for d in engine.forward(MODEL, batch))
    flat = np.concatenate(list(rows))
    at, trajectories = 0, []
    for t in batch.trajectories:
        turns = []
        for one in t.turns:
            turns.append(replace(one, sampling_logprobs=flat[at : at + len(one.output_ids)]))
            at += len(one.output_ids)
        trajectories.append(replace(t, turns=tuple(turns)))
    return replace(batch, trajectories=trajectories)


def test_on_policy_ratios_are_one() -> None:
    engine = opened(tiny_engine())
    metrics = engine.forward_backward(MODEL, on_policy(engine, mixed_batch()), IS).metrics
    assert (metrics["ratio:mean"], metrics["ratio:max"], metrics["kl_sampling_trainer:mean"]) == (1, 1, 0)


# Metrics


@pytest.mark.parametrize("canary", [True, False])
def test_finite_weights_with_which_no_token_can_be_sampled_are_not_saved(canary: bool, tmp_path: Path) -> None:
    """Every head is saved before it is committed, with a canary or without."""
    engine = opened(tiny_engine(canary=canary), MODEL)
    engine.forward_backward(MODEL, mixed_batch(1), IS)
    engine.optim_step(MODEL, STEP)
    session(engine, MODEL).weights *= 1e25
    assert session(engine, MODEL).weights.isfinite().all()
    with pytest.raises(NonFinite, match="logprobs are not finite"):
        engine.snapshot(MODEL).write(tmp_path, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_too_small_to_overflow_are_saved_without_a_forward_and_do_not_overflow(tmp_path: Path) -> None:
    engine = opened(tiny_engine(canary=False), MODEL)
    own = session(engine, MODEL)
    own.weights.fill_(_SAFE_WEIGHT)  # all of one sign: sums grow as fast as they can
    assert not may_overflow(engine._base, own)
    assert np.isfinite(compute_canary(engine._base, own).logprobs).all()
    engine.snapshot(MODEL).write(tmp_path, tmp_path)
    own.weights[0] = -1.01 * _SAFE_WEIGHT
    assert may_overflow(engine._base, own)


def test_every_pass_reports_finite_figures_under_their_names() -> None:
    result = opened(tiny_engine()).forward_backward(MODEL, mixed_batch(), LossChoice("cispo"))
    batch = mixed_batch()
    outputs = sum(len(t.output_ids) for trajectory in batch.trajectories for t in trajectory.turns)
    assert all(isinstance(value, float) and math.isfinite(value) for value in result.metrics.values())
    assert set(result.metrics) == {
        "loss:sum", "reward_mean", "reward_std", "reward_min", "reward_max", "groups_without_spread",
        "kl_sampling_trainer:mean", "kl_sampling_trainer_k3:mean", "ratio:mean", "ratio:max", "clip_fraction:mean",
        "entropy:mean", "sampling_logprob_mean", "tokens:sum", "tokens_sent:sum", "tokens_merged:sum",
        "tokens_computed:sum", "sharing_ratio", "micro_batches:sum", "seconds:sum", "seconds_plan:sum",
        "seconds_forward:sum", "seconds_loss:sum", "seconds_backward:sum", "tokens_per_s", "max_tokens_per_pass",
        "threads",
    }  # fmt: skip
    assert (result.num_datums, result.num_tokens) == (8, outputs)
    assert result.metrics["tokens:sum"] == outputs
    assert result.metrics["tokens_sent:sum"] == batch.num_prompt_tokens + outputs
    assert result.metrics["tokens_merged:sum"] == sum(d.num_tokens for d in to_datums(batch))


def test_figures_of_the_sampler_are_left_out_where_it_gave_none() -> None:
    supervised = Batch([trajectory(turn([1, 2], [3, 4], []))])
    metrics = opened(tiny_engine()).forward_backward(MODEL, supervised, LossChoice("cross_entropy")).metrics
    assert "loss:sum" in metrics
    assert not {"ratio:mean", "kl_sampling_trainer:mean", "sampling_logprob_mean"} & set(metrics)


def test_time_comes_from_the_clock_that_was_given() -> None:
    ticks = iter(range(0, 100, 5))
    engine = opened(tiny_engine())
    timed = BatchEngine(engine._base, clock=lambda: float(next(ticks)))
    timed.open(MODEL, LORA, None, None)
    metrics = timed.forward_backward(MODEL, mixed_batch(), IS).metrics
    assert [metrics[f"seconds_{phase}:sum"] for phase in ("plan", "forward", "loss", "backward")] == [5, 5, 5, 5]
    assert metrics["seconds:sum"] == 45
    assert metrics["tokens_per_s"] == metrics["tokens_computed:sum"] / 45
    assert timed.optim_step(MODEL, STEP).metrics["seconds"] == 5


# Refusals

GOOD = trajectory(turn([1, 2], [3, 4]), reward=1.0)
OFF = trajectory(turn([1, 2], [3], [-1e4]), reward=0.0)


@cache
def trained_engine() -> BatchEngine:
    """One for all refusals, of which each must leave it as it was."""
    engine = opened(tiny_engine(max_tokens_per_pass=1))
    train(engine, MODEL, 0)
    engine.forward_backward(MODEL, mixed_batch(2), IS)
    return engine


def refusal(call: Callable[[BatchEngine], object]) -> HeadwayError:
    """The error of a call that must leave weights, gradient and moments as they were."""
    engine = trained_engine()
    before = held(engine)
    with pytest.raises(HeadwayError) as caught:
        call(engine)
    assert same(held(engine), before)
    engine.forward_backward(MODEL, mixed_batch(3), IS)
    assert not same(held(engine), before)
    return caught.value


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (trajectory(turn([1, VOCAB], [3])), f"input 1, sample 0: prompt_token_ids holds {VOCAB}, which is outside"),
        (
            trajectory(turn([1], [2]), turn([1, 2], [-1])),
            "input 1, sample 1: output_token_ids holds -1, which is outside",
        ),
        (trajectory(turn([1], [])), "input 1, sample 0: output_token_ids is empty"),
        (trajectory(turn([], [1])), "input 1, sample 0: prompt_token_ids is empty"),
        (trajectory(), "input 1 has no samples"),
        (trajectory(turn([1], [2, 3], [-1.0])), "input 1, sample 0 has 2 output tokens but 1 output_logprobs"),
        (trajectory(turn([1], [2, 3], [])), "input 1, sample 0 has 2 output tokens but 0 output_logprobs"),
        (
            trajectory(turn([1], [2], [math.nan])),
            "input 1, sample 0: output_logprobs holds a value that is not a finite",
        ),
        (trajectory(turn([1], [2]), reward=math.inf), "input 1 has a reward of inf"),
        (trajectory(turn([1] * CONTEXT, [2])), f"input 1, sample 0: its {CONTEXT + 1} tokens are more than the model"),
        (OFF, "input 1: its loss or gradient is not finite"),
    ],
)
def test_a_bad_input_is_named_and_its_batch_leaves_nothing_behind(bad: Trajectory, sentence: str) -> None:
    error = refusal(lambda engine: engine.forward_backward(MODEL, Batch([GOOD, bad]), IS))
    assert isinstance(error, InvalidRequest)
    assert sentence in error.message


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        (Batch([]), "no inputs"),
        (Batch([GOOD] * 3, group_size=2), "group_size is 2: it must be 1 or more and divide the 3 inputs"),
        (Batch([GOOD], group_size=0), "group_size is 0"),
        (Batch([GOOD], reward_scale=math.nan), "reward_scale is nan"),
    ],
)
def test_a_batch_that_cannot_be_grouped_is_refused(batch: Batch, sentence: str) -> None:
    assert sentence in refusal(lambda engine: engine.forward_backward(MODEL, batch, IS)).message
    assert sentence in refusal(lambda engine: engine.forward(MODEL, batch)).message


def test_an_unknown_loss_or_number_of_substeps_is_refused() -> None:
    assert "unknown loss_fn" in refusal(lambda e: e.forward_backward(MODEL, mixed_batch(), LossChoice("x"))).message
    bad = LossChoice("ppo", num_substeps=0)
    assert "num_substeps is 0" in refusal(lambda e: e.forward_backward(MODEL, mixed_batch(), bad)).message


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([[1.0, 1.0]], "weights has 1 rows, but the forward pass returned 2 datums"),
        ([[1.0, 1.0, 1.0], [1.0]], "weights[1] has 1 values, its datum 3 positions"),
        ([[0.0, 1.0, 1.0], [0.0, 1.0, math.inf]], "weights[1] holds a value on a sampled token that is not finite"),
        ([[0.0, 1.0, 1.0], [0.0, 3e38, 3e38]], "input 1 (datum 1): its gradient is not finite"),
    ],
)
def test_weights_that_do_not_fit_their_datums_are_refused(weights: list[list[float]], sentence: str) -> None:
    rows = [np.array(row, np.float32) for row in weights]
    error = refusal(lambda engine: engine.backward(MODEL, Batch([GOOD, GOOD]), rows))
    assert isinstance(error, InvalidRequest)
    assert sentence in error.message


def batch_with_one_reward(reward: float) -> Batch:
    """The third of eight has it; the others' are zero."""
    turns = [turn([1, 2], [10 + i, 20 + i, 30 + i]) for i in range(8)]
    batch = Batch([trajectory(t, reward=reward if i == 2 else 0.0) for i, t in enumerate(turns)])
    return on_policy(opened(tiny_engine()), batch)


def reward_beyond_float32() -> float:
    """What it takes for the square of the third's gradient to overflow, though its loss is far from it."""
    engine = opened(tiny_engine())
    engine.backward(MODEL, Batch(batch_with_one_reward(1.0).trajectories[2:3]), [np.ones(4, np.float32)])
    advantage = 1.5 * torch.finfo(torch.float32).max ** 0.5 / session(engine).gradient.abs().max().item()
    return advantage * 8 / 7


@pytest.mark.parametrize("max_tokens", [4096, 1], ids=["in one pass", "each in a pass of its own"])
def test_of_a_batch_that_overflows_the_one_input_with_an_absurd_reward_is_named(max_tokens: int) -> None:
    engine = opened(tiny_engine(max_tokens_per_pass=max_tokens))
    engine.forward_backward(MODEL, mixed_batch(), IS)
    before = held(engine)
    with pytest.raises(InvalidRequest, match=r"input 2 \(datum 2\): its gradient is not finite"):
        engine.forward_backward(MODEL, batch_with_one_reward(reward_beyond_float32()), IS)
    assert same(held(engine), before)
    engine.forward_backward(MODEL, mixed_batch(1), IS)
    clean = opened(tiny_engine(max_tokens_per_pass=max_tokens))
    for seed in (0, 1):
        clean.forward_backward(MODEL, mixed_batch(seed), IS)
    assert same(held(engine), held(clean))


def test_a_sum_that_overflows_though_no_datum_does_names_the_range() -> None:
    engine = opened(tiny_engine())
    before = held(engine)
    with pytest.raises(InvalidRequest, match="inputs 0 to 3: the gradient of each is finite, but their sum"):
        engine.backward(MODEL, Batch([GOOD] * 4), [np.array([0, 1.6e18, 1.6e18], np.float32)] * 4)
    assert same(held(engine), before)


def test_a_gradient_that_overflows_only_on_top_of_the_others_is_refused() -> None:
    engine = opened(tiny_engine())
    held_session = session(engine)
    held_session.gradient = torch.full_like(held_session.gradient, 1.84e19)
    before = held(engine)
    with pytest.raises(Conflict, match="overflows"):
        engine.backward(MODEL, Batch([GOOD]), [np.array([0, 1e18, 1e18], np.float32)])
    assert same(held(engine), before)


def test_weights_that_diverged_are_told_apart_from_a_bad_batch() -> None:
    engine = opened(tiny_engine())
    session(engine).weights = torch.full_like(session(engine).weights, 1e30)
    with pytest.raises(Conflict, match="weights diverged"):
        engine.forward_backward(MODEL, mixed_batch(), IS)


def test_a_lora_shape_that_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="rank 0"):
        tiny_engine().open(MODEL, LoraConfig(rank=0), None, None)
