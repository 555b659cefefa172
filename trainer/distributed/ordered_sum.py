"""The sum of the shards' gradients, in the order of the shards, on any number of ranks.

A ring or tree adds in an order that depends on who holds what: from three ranks on, or with more shards than ranks,
the last bits differ. Here nothing is added on the way: each rank gets one slice of every shard's gradient (all-to-all),
adds these in the order of the shards, and all ranks collect the slices of the sum (all-gather). Both only copy.
"""

# S shards, W ranks, N elements of a gradient, C elements of a slice

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist

from trainer.distributed.peers import peers_there
from trainer.engine.turns import shards_of
from wire.process.faults import fault_point

_BLOCK_BYTES = 32 << 20
"""Of each shard's gradient at a time: buffers stay small next to the gradients themselves."""


class OrderedSum:
    """Keeps the gradients of this rank's shards until all are there. Implements `trainer.engine.ranks.ShardSum`.

    Has the memory for them from the start. What the exchange takes on top, all ranks have before one of them begins.
    """

    def __init__(
        self,
        num_shards: int,
        like: torch.Tensor,
        agreed: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """agreed: as that of `trainer.engine.ranks.Ranks`."""
        self._shards = shards_of(num_shards, dist.get_world_size())
        self._like = like
        self._agreed = agreed
        self._mine = {shard: torch.empty_like(like) for shard in self._shards[dist.get_rank()]}
        self._num_added = 0

    def add(self, shard: int, gradient: torch.Tensor) -> None:
        """Keeps a copy."""
        self._mine[shard].copy_(gradient)
        self._num_added += 1

    def total(self) -> torch.Tensor:
        """Of all ranks' shards; a collective of all ranks. Raises DeviceLost where one is gone, or comes too late."""
        assert self._num_added == len(self._mine), "this rank has not computed its shards"
        with self._agreed():
            total_N = torch.empty_like(self._like)
            block = min(len(total_N), max(1, _BLOCK_BYTES // total_N.element_size()))
            exchange = _Exchange(total_N, [len(shards) for shards in self._shards], block)
        for start in range(0, len(total_N), block):
            part = slice(start, min(start + block, len(total_N)))
            exchange.sum_block([gradient[part] for gradient in self._mine.values()], total_N[part])
        return total_N


class _Exchange:
    """The buffers for blocks of up to a number of elements. shards_W: how many each rank has, rank 0 the first ones."""

    def __init__(self, like: torch.Tensor, shards_W: list[int], block: int) -> None:
        self._shards_W = shards_W
        self._rank, self._size = dist.get_rank(), len(shards_W)
        length = -(-block // self._size)
        self._sent = like.new_empty(self._size * shards_W[self._rank] * length)
        self._received = like.new_empty(sum(shards_W) * length)
        self._sums = like.new_empty(self._size * length)

    def sum_block(self, mine: list[torch.Tensor], total_N: torch.Tensor) -> None:
        """mine: of this rank's shards, in their order. Writes what they and those of the others come to."""
        length = -(-len(total_N) // self._size)
        sent_WSC = self._sent[: self._size * len(mine) * length].view(self._size, len(mine), length)
        for place, gradient_N in enumerate(mine):
            for to, piece in enumerate(gradient_N.split(length)):
                sent_WSC[to, place, : len(piece)] = piece
        fault_point("sum:before-exchange")
        received_SC = self._received[: sum(self._shards_W) * length].view(-1, length)
        with peers_there():
            dist.all_to_all_single(
                received_SC.view(-1),
                sent_WSC.view(-1),
                output_split_sizes=[count * length for count in self._shards_W],
                input_split_sizes=[len(mine) * length] * self._size,
            )
        sum_C = received_SC[0]
        for gradient_C in received_SC[1:]:
            sum_C += gradient_C
        fault_point("sum:before-collect")
        sums_WC = self._sums[: self._size * length].view(self._size, length)
        with peers_there():
            dist.all_gather(list(sums_WC), sum_C)
        fault_point("sum:after-collect")
        total_N.copy_(sums_WC.view(-1)[: len(total_N)])
