"""Datums of which every position is scored, as a Tinker client sends them: value and gradient of each loss against
float64 references, one row a datum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.trainer.naive import saved_policy, worst_relative_error
from tests.unit.trainer.tiny import MODEL, VOCAB, gradients, norms_in_their_own_dtype, opened, session, tiny_model
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import EngineSettings, TrainingEngine
from wire.datums import Datum, fully_scored
from wire.engine import AdamParams, LossChoice
from wire.errors import InvalidRequest
from wire.extension import TokenSequence

LOW, HIGH = 0.9, 1.15
RNG = np.random.default_rng(3)

Formula = Callable[[torch.Tensor, Datum], torch.Tensor]


def an_engine(max_tokens: int = 4096, dtype: torch.dtype = torch.float64) -> TrainingEngine:
    settings = EngineSettings(max_tokens_per_pass=max_tokens, threads=1)
    return opened(TrainingEngine(BaseModel(tiny_model(dtype=dtype)), settings))


def supervised(index: int, length: int, num_targets: int = 0) -> Datum:
    """Weights of any sign, some of them 0."""
    shape = (length, num_targets) if num_targets else (length,)
    ids = TokenSequence(RNG.integers(0, VOCAB, length).astype(np.int32))
    targets = RNG.integers(0, VOCAB if not num_targets else 5, shape).astype(np.int32)
    weights = RNG.normal(size=shape).astype(np.float32) * (RNG.random(shape) < 0.7)
    return fully_scored(ids, targets, index, weights=weights.astype(np.float32))


def sampled(index: int, length: int, num_prompt: int) -> Datum:
    """A prompt, of which sampling logprobs and advantages are 0, and advantages that differ by token."""
    ids = RNG.integers(0, VOCAB, length + 1).astype(np.int32)
    is_action = np.arange(length) >= num_prompt
    q = np.where(is_action, -3.0 - 2 * RNG.random(length), 0).astype(np.float32)
    advantages = np.where(is_action, RNG.normal(size=length), 0)
    in_ratio = is_action & (np.arange(length) != length - 1)
    return fully_scored(TokenSequence(ids[:-1]), ids[1:], index, sampling=(q, advantages), in_ratio=in_ratio)


MIXED = [supervised(0, 9), supervised(1, 6, num_targets=4), supervised(2, 3, num_targets=1), supervised(3, 7)]
SAMPLED = [sampled(0, 12, 5), sampled(1, 8, 3), sampled(2, 10, 0)]


def _ratio(p: torch.Tensor, datum: Datum) -> torch.Tensor:
    return torch.exp(p - torch.from_numpy(datum.sampling_logprobs).double())


def _ppo(p: torch.Tensor, datum: Datum, ratio: torch.Tensor | None = None) -> torch.Tensor:
    r, a = _ratio(p, datum) if ratio is None else ratio, torch.from_numpy(datum.advantages)
    return -torch.min(r * a, r.clip(LOW, HIGH) * a)


def _gspo(p: torch.Tensor, datum: Datum) -> torch.Tensor:
    gaps = (p - torch.from_numpy(datum.sampling_logprobs).double()).detach()
    s = gaps[torch.from_numpy(datum.in_ratio)].mean().exp()
    return _ppo(p, datum, s * torch.exp(p - p.detach()))


def _dro(p: torch.Tensor, datum: Datum) -> torch.Tensor:
    q, a = torch.from_numpy(datum.sampling_logprobs).double(), torch.from_numpy(datum.advantages)
    return torch.where((q == 0) & (a == 0), 0.0, -(p * a - 0.25 / 2 * (p - q) ** 2))


FORMULAS: dict[str, tuple[Mapping[str, float], Formula]] = {
    "importance_sampling": ({}, lambda p, datum: -_ratio(p, datum) * torch.from_numpy(datum.advantages)),
    "ppo": ({"clip_low_threshold": LOW, "clip_high_threshold": HIGH}, _ppo),
    "cispo": (
        {"clip_low_threshold": LOW, "clip_high_threshold": HIGH},
        lambda p, datum: -_ratio(p, datum).clip(LOW, HIGH).detach() * p * torch.from_numpy(datum.advantages),
    ),
    "dro": ({"beta": 0.25}, _dro),
    "gspo": ({"clip_low_threshold": LOW, "clip_high_threshold": HIGH}, _gspo),
}


def cross_entropy(p: torch.Tensor, datum: Datum) -> torch.Tensor:
    return -torch.from_numpy(datum.weights).double() * p


def expected_of(
    engine: TrainingEngine, datums: Sequence[Datum], formula: Formula, folder: Path
) -> tuple[float, dict[str, torch.Tensor], list[torch.Tensor]]:
    policy = saved_policy(tiny_model(dtype=torch.float64), engine, folder)
    rows = []
    for datum in datums:
        logits = policy(input_ids=torch.from_numpy(datum.model_input.ids).long()[None]).logits[0]
        targets = torch.from_numpy(datum.targets).long()
        shaped = targets[:, None] if targets.ndim == 1 else targets
        rows.append(logits.log_softmax(-1).gather(1, shaped).reshape(targets.shape))
    cost = torch.stack([formula(p, datum).sum() for p, datum in zip(rows, datums, strict=True)]).sum()
    cost.backward()
    named = {name.replace(".default.", "."): p.grad for name, p in policy.named_parameters() if p.requires_grad}
    return cost.item(), named, [row.detach() for row in rows]


def check(datums: Sequence[Datum], choice: LossChoice, formula: Formula, folder: Path, max_tokens: int = 4096) -> None:
    with norms_in_their_own_dtype():
        engine = an_engine(max_tokens)
        evaluated = engine.evaluate(MODEL, datums, choice)
        assert not session(engine).gradient.any()
        result = engine.forward_backward(MODEL, datums, choice)
        cost, expected, rows = expected_of(engine, datums, formula, folder)
    for passed in (evaluated, result):
        assert passed.metrics["loss:sum"] == pytest.approx(cost, rel=1e-12)
        assert passed.logprobs is not None
        for found, row in zip(passed.logprobs, rows, strict=True):
            assert found.shape == tuple(row.shape)
            np.testing.assert_allclose(found, row, rtol=1e-6)
    assert worst_relative_error(gradients(engine), expected) <= 1e-12


@pytest.mark.parametrize("max_tokens", [4096, 1], ids=["one pass", "a pass each"])
def test_cross_entropy_of_one_and_of_several_targets_a_position_is_exact(max_tokens: int, tmp_path: Path) -> None:
    check(MIXED, LossChoice("cross_entropy"), cross_entropy, tmp_path, max_tokens)


@pytest.mark.parametrize("loss", FORMULAS)
def test_losses_over_sampled_tokens_are_exact(loss: str, tmp_path: Path) -> None:
    config, formula = FORMULAS[loss]
    check(SAMPLED, LossChoice(loss, config), formula, tmp_path)


def test_calls_of_several_datums_add_up_to_one() -> None:
    together, apart = an_engine(), an_engine()
    whole = together.forward_backward(MODEL, MIXED, LossChoice("cross_entropy"))
    parts = [apart.forward_backward(MODEL, [datum], LossChoice("cross_entropy")) for datum in MIXED]
    assert whole.metrics["loss:sum"] == pytest.approx(sum(part.metrics["loss:sum"] for part in parts), rel=1e-9)
    assert worst_relative_error(gradients(together), gradients(apart)) <= 1e-9


def test_a_step_moves_by_the_gradient_of_the_plain_sum() -> None:
    """AdamW without moments and with an eps that outweighs the gradient is gradient descent of rate lr / eps."""
    engine = an_engine()
    engine.forward_backward(MODEL, MIXED, LossChoice("cross_entropy"))
    before, gradient = session(engine).weights, session(engine).gradient
    engine.optim_step(MODEL, AdamParams(learning_rate=1.0, beta1=0.0, beta2=0.0, eps=1e6))
    after = session(engine).weights
    torch.testing.assert_close(after - before, -gradient / (gradient.abs() + 1e6), rtol=1e-6, atol=1e-12)


def test_several_targets_are_refused_of_other_losses_by_name() -> None:
    several = replace(SAMPLED[0], targets=np.zeros((12, 2), np.int32), weights=np.ones((12, 2), np.float32))
    with pytest.raises(InvalidRequest, match="several targets a position, which cross_entropy alone"):
        an_engine().forward_backward(MODEL, [several], LossChoice("ppo"))


def test_what_datums_share_is_computed_once_though_nobody_says_who_shares_it() -> None:
    """Rollouts of two prompts, in turns, and passes that hold those of one."""
    prompts = [RNG.integers(0, VOCAB, 20).tolist() for _ in range(2)]
    rows = [np.array([*prompts[i % 2], *RNG.integers(0, VOCAB, 3).tolist()], np.int32) for i in range(8)]
    datums = [fully_scored(TokenSequence(row[:-1]), row[1:], index) for index, row in enumerate(rows)]
    metrics = an_engine(max_tokens=50).forward_backward(MODEL, datums, LossChoice("cross_entropy")).metrics
    assert metrics["micro_batches:sum"] == 2
    assert metrics["tokens_computed:sum"] == 2 * 20 + 8 * 2


def test_figures_count_the_positions_that_have_a_weight() -> None:
    engine = an_engine()
    whole = engine.forward_backward(MODEL, SAMPLED, LossChoice("importance_sampling"))
    assert whole.num_tokens == 7 + 5 + 10
    rows = whole.logprobs or ()
    pairs = [(row[n:], datum.sampling_logprobs[n:]) for row, datum, n in zip(rows, SAMPLED, (5, 3, 0), strict=True)]
    drift = np.concatenate([q.astype(np.float64) - p for p, q in pairs])
    assert whole.metrics["kl_sampling_trainer:mean"] == pytest.approx(drift.mean(), rel=1e-5)
    several = engine.forward_backward(MODEL, MIXED[1:2], LossChoice("cross_entropy"))
    assert several.num_tokens == (MIXED[1].weights != 0).any(axis=1).sum()


def test_a_batch_without_any_weight_costs_nothing_and_returns_its_logprobs() -> None:
    engine, datum = an_engine(), replace(MIXED[0], weights=np.zeros(9, np.float32))
    result = engine.forward_backward(MODEL, [datum], LossChoice("cross_entropy"))
    assert not session(engine).gradient.any()
    assert (result.num_tokens, result.metrics["loss:sum"]) == (0, 0)
    assert result.logprobs is not None
    assert result.logprobs[0].dtype == np.float32
    assert np.isfinite(result.logprobs[0]).all()
    assert (result.logprobs[0] < 0).all()
    assert np.isfinite(list(result.metrics.values())).all()
