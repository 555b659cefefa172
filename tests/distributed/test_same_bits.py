"""Any number of ranks ends in the bits of one process: weights, gradients, moments and figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.distributed.processes import RankProcesses
from tests.distributed.training import (
    Seen,
    Work,
    alone,
    base_folder,
    batch_of,
    digest,
    engine_of,
    together,
    with_two_targets,
)
from tests.unit.trainer.tiny import ARCHITECTURES, LORA, MODEL
from trainer.distributed.engine import DistributedEngine, follow
from trainer.distributed.group import RankGroup
from trainer.engine.engine import TrainingEngine
from trainer.engine.losses import LOSSES
from wire.conversion import to_datums
from wire.engine import AdamParams, Engine, LossChoice


def assert_same(ranks: RankProcesses, work: Work) -> Seen:
    expected = alone(work)
    seen, *followers = ranks.run(together, work)
    assert seen == expected
    assert set(followers) == {expected.digests[-1]}
    return expected


def test_two_ranks_end_in_the_bits_of_one(two_ranks: RankProcesses, tmp_path: Path) -> None:
    expected = assert_same(two_ranks, Work(base_folder(tmp_path)))
    assert [*expected.num_shards] == [1, 3, 6], "fewer shards than ranks, and more"
    assert len(set(expected.digests)) == 3


def test_ranks_whose_passes_make_their_logits_again_do_beside_others(two_ranks: RankProcesses, tmp_path: Path) -> None:
    work = Work(base_folder(tmp_path))
    engine = engine_of(work)
    expected = _learn_mixed(engine, engine)
    assert two_ranks.run(_mixed_together, work) == [expected, expected]


def _mixed_together(group: RankGroup, work: Work) -> str:
    engine = engine_of(work, group)
    if group.rank:
        follow(engine, group)
        return digest(engine)
    leading = DistributedEngine(engine, group)
    found = _learn_mixed(leading, engine)
    leading.end()
    return found


def _learn_mixed(engine: Engine, held: TrainingEngine) -> str:
    """Of a call of which the first datums have two targets a position, and the others one."""
    engine.open(MODEL, LORA, None, None)
    datums = to_datums(batch_of(8))
    mixed = [*map(with_two_targets, datums[:3]), *datums[3:]]
    assert len(engine.plan(mixed).shards) > 1
    engine.forward_backward(MODEL, mixed, LossChoice("cross_entropy"))
    engine.optim_step(MODEL, AdamParams(1e-2))
    return digest(held)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_more_ranks_do_for_every_kind_of_layer(more_ranks: RankProcesses, architecture: str, tmp_path: Path) -> None:
    assert_same(more_ranks, Work(base_folder(tmp_path, architecture), sizes=(1, 2, 16)))


@pytest.mark.slow
@pytest.mark.parametrize("max_tokens", [20, 64, 4096])
@pytest.mark.parametrize("max_shards", [1, 2, 5])
def test_budgets_decide_the_bits_and_ranks_do_not(
    more_ranks: RankProcesses, max_tokens: int, max_shards: int, tmp_path: Path
) -> None:
    work = Work(base_folder(tmp_path), losses=("ppo", "gspo"), sizes=(5, 12))
    settings = replace(work.settings, max_tokens_per_pass=max_tokens, max_shards=max_shards, max_activation_bytes=1)
    assert_same(more_ranks, replace(work, settings=settings))


@pytest.mark.slow
def test_an_adapter_of_the_unembedding_and_float64(more_ranks: RankProcesses, tmp_path: Path) -> None:
    folder = base_folder(tmp_path, "llama", torch.float64)
    assert_same(more_ranks, Work(folder, lora=replace(LORA, unembed=True), dtype=torch.float64))


def test_all_losses_are_tried() -> None:
    assert set(Work(Path()).losses) == set(LOSSES)
