"""The gradients of ranks are those of the plainest code that computes the same thing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.distributed.processes import RankProcesses
from tests.distributed.training import Work, base_folder, engine_of
from tests.unit.trainer.naive import FORMULAS, naive_pass, worst_relative_error
from tests.unit.trainer.tiny import (
    ARCHITECTURES,
    LORA,
    MODEL,
    gradients,
    mixed_batch,
    norms_in_their_own_dtype,
    opened,
    tiny_engine,
    tiny_model,
)
from trainer.distributed.group import RankGroup
from wire.conversion import to_datums
from wire.engine import LossChoice


def computed(group: RankGroup, work: Work, loss: str) -> tuple[int, dict[str, torch.Tensor]]:
    """How many shards there were, and each LoRA tensor's gradient as this rank has it."""
    with norms_in_their_own_dtype():
        engine = opened(engine_of(work, group), lora=LORA)
        datums = to_datums(mixed_batch())
        engine.forward_backward(MODEL, datums, LossChoice(loss))
    return len(engine.plan(datums).shards), gradients(engine)


def assert_equal_to_naive(ranks: RankProcesses, architecture: str, loss: str, folder: Path) -> None:
    with norms_in_their_own_dtype():
        reference = opened(tiny_engine(architecture, torch.float64))
        base = tiny_model(architecture, torch.float64)
        _, expected = naive_pass(base, reference, mixed_batch(), loss, folder / "policy")
    work = Work(base_folder(folder / "base", architecture, torch.float64), dtype=torch.float64)
    for num_shards, found in ranks.run(computed, work, loss):
        assert num_shards > ranks.size
        assert worst_relative_error(found, expected) <= 1e-12


def test_float64_gradients_of_two_ranks_equal_naive_ones(two_ranks: RankProcesses, tmp_path: Path) -> None:
    assert_equal_to_naive(two_ranks, "qwen3", "ppo", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("loss", FORMULAS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_more_ranks_give_naive_gradients_on_every_architecture(
    more_ranks: RankProcesses, architecture: str, loss: str, tmp_path: Path
) -> None:
    assert_equal_to_naive(more_ranks, architecture, loss, tmp_path)
