"""The order in which gradients are added, and that a sum in another order is noticed."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from tests.distributed.processes import RankProcesses
from trainer.distributed import ordered_sum
from trainer.distributed.group import RankGroup
from trainer.engine.ranks import RunningSum
from trainer.engine.turns import shards_of

LENGTH = 1003


def gradients(num_shards: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(num_shards)
    return [torch.randn(LENGTH, generator=generator) * 10**shard for shard in range(num_shards)]


def in_order(num_shards: int) -> torch.Tensor:
    total = RunningSum(num_shards)
    for shard, gradient in enumerate(gradients(num_shards)):
        total.add(shard, gradient)
    return total.total()


def summed(group: RankGroup, num_shards: int, block_bytes: int) -> torch.Tensor:
    ordered_sum._BLOCK_BYTES = block_bytes
    found = gradients(num_shards)
    total = group.shard_sum(num_shards, found[0])
    for shard in shards_of(num_shards, group.size)[group.rank]:
        total.add(shard, found[shard])
    return total.total()


def ring_summed(group: RankGroup, num_shards: int) -> torch.Tensor:
    """What FSDP2, DDP or one all_reduce would do: each rank adds its own, and then the ranks add."""
    found = gradients(num_shards)
    total = torch.zeros(LENGTH)
    for shard in shards_of(num_shards, group.size)[group.rank]:
        total += found[shard]
    dist.all_reduce(total)
    return total


@pytest.mark.parametrize("block_bytes", [400, 1 << 20])
@pytest.mark.parametrize("num_shards", [1, 2, 3, 8])
def test_shards_are_added_in_their_order(two_ranks: RankProcesses, num_shards: int, block_bytes: int) -> None:
    for total in two_ranks.run(summed, num_shards, block_bytes):
        assert torch.equal(total, in_order(num_shards))


@pytest.mark.slow
@pytest.mark.parametrize("num_shards", [1, 2, 3, 8])
def test_more_ranks_add_in_the_same_order(more_ranks: RankProcesses, num_shards: int) -> None:
    for total in more_ranks.run(summed, num_shards, 400):
        assert torch.equal(total, in_order(num_shards))


def test_another_order_has_other_bits(two_ranks: RankProcesses) -> None:
    """Or the tests above could not fail."""
    assert not torch.equal(two_ranks.run(ring_summed, 8)[0], in_order(8))
