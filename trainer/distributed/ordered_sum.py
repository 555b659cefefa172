"""The sum of the shards' gradients, in the order of the shards, on any number of ranks.

A ring or tree adds in an order that depends on who holds what: from three ranks on, or with more shards than ranks,
the last bits differ. Here nothing is added on the way: each rank gets one slice of every shard's gradient (all-to-all),
adds these in the order of the shards, and all ranks collect the slices of the sum (all-gather). Both only copy.
"""

# S shards, W ranks, N elements of a gradient, C elements of a slice

from __future__ import annotations

import torch
import torch.distributed as dist

from trainer.distributed.peers import peers_there
from trainer.engine.turns import shards_of
from wire.process.faults import fault_point

_BLOCK_BYTES = 256 << 20
"""Of each shard's gradient at a time: buffers stay small next to the gradients themselves."""


class OrderedSum:
    """Keeps the gradients of this rank's shards until all are there. Implements `trainer.engine.ranks.ShardSum`."""

    def __init__(self, num_shards: int, like: torch.Tensor) -> None:
        self._num_shards = num_shards
        self._like = like
        self._mine: dict[int, torch.Tensor] = {}

    def add(self, shard: int, gradient: torch.Tensor) -> None:
        """Keeps a copy."""
        self._mine[shard] = gradient.clone()

    def total(self) -> torch.Tensor:
        """Of all ranks' shards; a collective of all ranks. Raises DeviceLost where one is gone, or comes too late."""
        size, rank = dist.get_world_size(), dist.get_rank()
        shards_W = [len(shards) for shards in shards_of(self._num_shards, size)]
        mine = [self._mine[shard] for shard in sorted(self._mine)]
        assert len(mine) == shards_W[rank], "this rank has not computed its shards"
        total_N = torch.empty_like(self._like)
        block = max(1, _BLOCK_BYTES // total_N.element_size())
        for start in range(0, len(total_N), block):
            part = slice(start, min(start + block, len(total_N)))
            total_N[part] = _sum_block([gradient[part] for gradient in mine], total_N[part], shards_W)
        return total_N


def _sum_block(mine: list[torch.Tensor], like_N: torch.Tensor, shards_W: list[int]) -> torch.Tensor:
    """mine: of this rank's shards, in their order; shards_W: how many each rank has, rank 0 the first ones."""
    size, rank, length = len(shards_W), dist.get_rank(), len(like_N)
    slice_length = -(-length // size)
    sent_WSC = like_N.new_zeros(size, len(mine), slice_length)
    for place, gradient_N in enumerate(mine):
        for to, piece in enumerate(gradient_N.split(slice_length)):
            sent_WSC[to, place, : len(piece)] = piece
    fault_point("sum:before-exchange")
    received_SC = like_N.new_empty(sum(shards_W), slice_length)
    with peers_there():
        dist.all_to_all_single(
            received_SC.view(-1),
            sent_WSC.view(-1),
            output_split_sizes=[count * slice_length for count in shards_W],
            input_split_sizes=[shards_W[rank] * slice_length] * size,
        )
    sum_C = received_SC[0]
    for gradient_C in received_SC[1:]:
        sum_C += gradient_C
    fault_point("sum:before-collect")
    sums_WC = like_N.new_empty(size, slice_length)
    with peers_there():
        dist.all_gather(list(sums_WC), sum_C)
    fault_point("sum:after-collect")
    return sums_WC.view(-1)[:length]
