"""The engine's gradients are those of the plainest code that computes the same thing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from tests.unit.trainer.naive import FORMULAS, naive_pass, saved_policy, turn_logprobs, worst_relative_error
from tests.unit.trainer.tiny import (
    ARCHITECTURES,
    MODEL,
    gradients,
    mixed_batch,
    norms_in_their_own_dtype,
    opened,
    tiny_engine,
    tiny_model,
)
from trainer import engine as engine_module
from trainer.packing import Pack, build_pack
from wire.engine import LossChoice


@pytest.mark.parametrize("loss", FORMULAS)
def test_float64_gradients_equal_naive_ones_to_rounding(loss: str, tmp_path: Path) -> None:
    with norms_in_their_own_dtype():
        engine = opened(tiny_engine(dtype=torch.float64))
        result = engine.forward_backward(MODEL, mixed_batch(), LossChoice(loss))
        cost, expected = naive_pass(tiny_model(dtype=torch.float64), engine, mixed_batch(), loss, tmp_path)
    assert result.metrics["loss:sum"] == pytest.approx(cost, rel=1e-12)
    assert worst_relative_error(gradients(engine), expected) <= 1e-12


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float64_gradients_equal_naive_ones_on_every_architecture(architecture: str, tmp_path: Path) -> None:
    with norms_in_their_own_dtype():
        engine = opened(tiny_engine(architecture, torch.float64, max_tokens_per_pass=40))
        engine.forward_backward(MODEL, mixed_batch(), LossChoice("importance_sampling"))
        base = tiny_model(architecture, torch.float64)
        _, expected = naive_pass(base, engine, mixed_batch(), "importance_sampling", tmp_path)
    assert worst_relative_error(gradients(engine), expected) <= 1e-12


@pytest.mark.parametrize("loss", FORMULAS)
@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_float32_gradients_equal_naive_ones(architecture: str, loss: str, tmp_path: Path) -> None:
    engine = opened(tiny_engine(architecture))
    result = engine.forward_backward(MODEL, mixed_batch(), LossChoice(loss))
    cost, expected = naive_pass(tiny_model(architecture), engine, mixed_batch(), loss, tmp_path)
    assert result.metrics["loss:sum"] == pytest.approx(cost, rel=1e-5)
    assert worst_relative_error(gradients(engine), expected) <= 1e-5


def test_forward_gives_the_logprobs_of_a_plain_row_a_turn(tmp_path: Path) -> None:
    engine, batch = opened(tiny_engine()), mixed_batch()
    policy = saved_policy(tiny_model(), engine, tmp_path)
    found = [float(p) for d in engine.forward(MODEL, batch) for p, m in zip(d.logprobs, d.mask, strict=True) if m]
    with torch.no_grad():
        expected = [turn_logprobs(policy, turn) for t in batch.trajectories for turn in t.turns]
    assert found == pytest.approx(torch.cat(expected).tolist(), abs=1e-5)


def _no_positions(pack: Pack) -> Pack:
    # The packed index would do no harm: rotary positions are relative, as long as no prefix is shared.
    return replace(pack, position_ids_T=torch.zeros_like(pack.position_ids_T))


def _labels_rolled_over_the_pack(pack: Pack) -> Pack:
    # What the packed row holds at an action is taken for the prediction made there.
    return replace(pack, targets_P=pack.input_ids_T[pack.rows_P])


def _one_sequence_sees_the_one_before(pack: Pack) -> Pack:
    return replace(pack, layout=type(pack.layout)((pack.num_tokens,)))


@pytest.mark.parametrize("mistake", [_no_positions, _labels_rolled_over_the_pack, _one_sequence_sees_the_one_before])
def test_a_silent_mistake_in_packing_would_be_seen(mistake, tmp_path: Path) -> None:
    engine = opened(tiny_engine())
    with patch.object(engine_module, "build_pack", lambda datums, device: mistake(build_pack(datums, device))):
        engine.forward_backward(MODEL, mixed_batch(), LossChoice("importance_sampling"))
    _, expected = naive_pass(tiny_model(), engine, mixed_batch(), "importance_sampling", tmp_path)
    assert worst_relative_error(gradients(engine), expected) > 0.1
