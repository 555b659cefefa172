"""The gradients of ranks are those of the plainest code that computes the same thing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.distributed.processes import RankProcesses
from tests.distributed.training import Work, base_folder, engine_of, loaded_model
from tests.unit.trainer.naive import FORMULAS, naive_pass, worst_relative_error
from tests.unit.trainer.tiny import (
    ARCHITECTURES,
    LORA,
    MODEL,
    gradients,
    mixed_batch,
    norms_in_their_own_dtype,
    opened,
)
from trainer.distributed.group import RankGroup
from wire.conversion import to_datums
from wire.engine import LossChoice

IN_FLOAT32_ALONE = {"qwen3 with experts", "qwen3-next"}
"""The kernel of experts that transformers takes by itself knows no float64: `test_same_bits` has these."""


def computed(group: RankGroup, work: Work, loss: str) -> tuple[int, dict[str, torch.Tensor]]:
    """How many shards there were, and each LoRA tensor's gradient as this rank has it."""
    with norms_in_their_own_dtype():
        engine = opened(engine_of(work, group), lora=LORA)
        datums = to_datums(mixed_batch())
        engine.forward_backward(MODEL, datums, LossChoice(loss))
    return len(engine.plan(datums).shards), gradients(engine)


def assert_equal_to_naive(ranks: RankProcesses, architecture: str, loss: str, folder: Path) -> None:
    work = Work(base_folder(folder / "base", architecture, torch.float64), dtype=torch.float64)
    with norms_in_their_own_dtype():
        reference = opened(engine_of(work))
        _, expected = naive_pass(loaded_model(work), reference, mixed_batch(), loss, folder / "policy")
    for num_shards, found in ranks.run(computed, work, loss):
        assert num_shards >= ranks.size
        assert worst_relative_error(found, expected) <= 1e-12


def test_float64_gradients_of_two_ranks_equal_naive_ones(two_ranks: RankProcesses, tmp_path: Path) -> None:
    assert_equal_to_naive(two_ranks, "qwen3", "ppo", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("loss", FORMULAS)
def test_more_ranks_give_naive_gradients_of_every_loss(more_ranks: RankProcesses, loss: str, tmp_path: Path) -> None:
    assert_equal_to_naive(more_ranks, "llama", loss, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES.keys() - IN_FLOAT32_ALONE))
def test_more_ranks_give_naive_gradients_on_every_architecture(
    more_ranks: RankProcesses, architecture: str, tmp_path: Path
) -> None:
    assert_equal_to_naive(more_ranks, architecture, "importance_sampling", tmp_path)
