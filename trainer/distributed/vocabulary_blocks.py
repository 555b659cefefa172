"""Embedding and unembedding of which each rank holds some rows, and one block of the vocabulary at a time is whole.

A rank holds consecutive rows, as of any other weight. Blocks are the engine's, whatever the number of ranks, so that a
sum over a vocabulary has the bits of one process: the ranks that hold rows of a block send them to all others, and the
next block comes while one is used.
"""

# V vocabulary, B rows of a block, D hidden size, T tokens

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

from trainer.distributed.counted_gather import CountedGather
from trainer.engine.unembedding import Unembedding, blocks_of, places_in


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of a block that one rank holds. at: in the block. own: of the rank's rows."""

    rank: int
    at: slice
    own: slice


class BlockGather:
    """Brings one block together, on all ranks of the weight's mesh."""

    def __init__(self, weight: DTensor, ids: range, gather: CountedGather) -> None:
        self.ids = ids
        self._own = weight.to_local().detach()
        self._group = weight.device_mesh.get_group()
        self._pieces = list(_pieces(len(weight), ids, self._group.size()))
        self._gather = gather
        self._works = list[dist.Work]()

    def issue(self, block_BD: torch.Tensor) -> None:
        """Have its rows come to this memory, where they are once `wait` has returned."""
        received_bytes = block_BD.nbytes
        for piece in self._pieces:
            if piece.rank == self._group.rank():
                block_BD[piece.at] = self._own[piece.own]
                received_bytes -= block_BD[piece.at].nbytes
        self._works = self._gather.issue(partial(self._send, block_BD), received_bytes)

    def wait(self) -> None:
        """Until all rows are there, if they were asked for."""
        works, self._works = self._works, []
        if works:
            self._gather.wait(works, self._own.device)

    def idle(self) -> None:
        """For nobody's use."""
        self.issue(self._own.new_empty(len(self.ids), self._own.shape[1]))
        self.wait()

    def _send(self, block_BD: torch.Tensor) -> list[dist.Work | None]:
        return [
            dist.broadcast(block_BD[piece.at], group_src=piece.rank, group=self._group, async_op=True)
            for piece in self._pieces
        ]


class ShardedRows:
    """Implements `trainer.engine.unembedding.Unembedding`, of an embedding, too. gathers: of its blocks, in order."""

    def __init__(self, weight: DTensor, gathers: Sequence[BlockGather]) -> None:
        self.num_rows = len(weight)
        self.dtype = weight.dtype
        self.block_rows = len(blocks_of(self.num_rows)[0])
        self._own = weight.to_local().detach()
        self._is_whole = weight.device_mesh.size() == 1
        self._gathers = gathers

    def by(self, block_rows: int) -> ShardedRows:
        """See `Unembedding.by`."""
        return self

    def blocks(self) -> Iterable[tuple[range, torch.Tensor]]:
        """See `Unembedding.blocks`. Two are there at a time: the one that is used, and the next one, which comes."""
        if self._is_whole:
            yield from ((ids, self._own[ids.start : ids.stop]) for ids in blocks_of(self.num_rows))
            return
        last = len(self._gathers) - 1
        longest, width = len(self._gathers[0].ids), self._own.shape[1]
        memory = [self._own.new_empty(longest, width) for _ in range(min(2, last + 1))]
        blocks = [memory[number % 2][: len(gather.ids)] for number, gather in enumerate(self._gathers)]
        self._gathers[0].issue(blocks[0])
        for number, gather in enumerate(self._gathers):
            if number < last:
                self._gathers[number + 1].issue(blocks[number + 1])
            gather.wait()
            yield gather.ids, blocks[number]


def look_up_by_blocks(embedding: torch.nn.Embedding, rows: Unembedding) -> None:
    """Have the module find its rows in blocks. What it does with them beside (a scale, say), it goes on doing."""
    embedding.forward = partial(_looked_up, embedding.forward, embedding, rows)


def project_by_blocks(head: torch.nn.Linear, rows: Unembedding) -> None:
    """Have the module make its logits by blocks, and gather them again in the backward; for the plain path alone."""
    head.forward = partial(_ByBlocks.apply, rows)


def _looked_up(
    own_forward: Callable[[torch.Tensor], torch.Tensor],
    embedding: torch.nn.Embedding,
    rows: Unembedding,
    input: torch.Tensor,  # noqa: A002 as torch calls it
) -> torch.Tensor:
    ids_T = input.flatten()
    found_TD = torch.empty(len(ids_T), embedding.embedding_dim, dtype=rows.dtype, device=ids_T.device)
    for ids, block_BD in rows.blocks():
        places_T, is_here_T = places_in(ids, ids_T)
        found_TD = torch.where(is_here_T[:, None], block_BD[places_T], found_TD)
    with _table(embedding, found_TD):
        return own_forward(torch.arange(len(ids_T), device=ids_T.device).view(input.shape))


@contextmanager
def _table(embedding: torch.nn.Embedding, rows_TD: torch.Tensor) -> Generator[None]:
    """The module computes with these rows inside, of which none stands for padding."""
    parameters = cast(Any, embedding)._parameters
    weight, padding = parameters["weight"], embedding.padding_idx
    try:
        parameters["weight"], embedding.padding_idx = rows_TD, None
        yield
    finally:
        parameters["weight"], embedding.padding_idx = weight, padding


class _ByBlocks(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, rows: Unembedding, hidden: torch.Tensor
    ) -> torch.Tensor:
        ctx.rows = rows
        return torch.cat([hidden @ block_BD.T for _, block_BD in rows.blocks()], dim=-1)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[None, torch.Tensor]:
        parts = (gradient[..., ids.start : ids.stop] @ block_BD for ids, block_BD in ctx.rows.blocks())
        return None, torch.stack([*parts]).sum(0)


def _pieces(num_rows: int, ids: range, num_ranks: int) -> Iterator[_Piece]:
    """Ranks have equally many rows of a weight, the last ones fewer or none."""
    each = -(-num_rows // num_ranks)
    for rank in range(ids.start // each, (ids.stop - 1) // each + 1):
        first, last = max(ids.start, rank * each), min(ids.stop, (rank + 1) * each)
        yield _Piece(rank, slice(first - ids.start, last - ids.start), slice(first - rank * each, last - rank * each))
