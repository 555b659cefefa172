"""The unembedding by blocks of its vocabulary: consecutive rows, of which one block at a time need be whole.

Blocks are the same wherever the weight lies, in one process or divided among ranks, since sums over a vocabulary have
the bits of their blocks.
"""

# V vocabulary, B rows of a block, D hidden size

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch

from wire.plans import ALL_ROWS

BLOCK_ROWS = 16384
"""Of all blocks but the last. On a CPU, where a chunk's logits are 32 MiB, products of 512 rows of hidden states with a
block are as fast as any; a block in float32 is 0.3 GB at a hidden size of 4096, and 0.5 GB at 8192."""


class Unembedding(Protocol):
    """num_rows: V. dtype: of the weight as it is stored. block_rows: of each block but the last."""

    @property
    def num_rows(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def block_rows(self) -> int: ...

    def by(self, block_rows: int) -> Unembedding:
        """The same by blocks of so many rows, as a plan has it (`wire.plans`); itself where ranks have divided it."""
        ...

    def blocks(self) -> Iterable[tuple[range, torch.Tensor]]:
        """From the first to the last, the ids of a block and weight_BD as it is stored, for use until the next one."""
        ...


class WholeUnembedding:
    """Of a weight that this process holds: blocks are views."""

    def __init__(self, weight_VD: torch.Tensor, block_rows: int | None = None) -> None:
        """block_rows: `BLOCK_ROWS` if not given."""
        self.weight_VD = weight_VD
        self.num_rows = len(weight_VD)
        self.dtype = weight_VD.dtype
        self.block_rows = min(block_rows or BLOCK_ROWS, self.num_rows)

    def by(self, block_rows: int) -> WholeUnembedding:
        """See `Unembedding.by`."""
        return WholeUnembedding(self.weight_VD, self.num_rows if block_rows == ALL_ROWS else block_rows)

    def blocks(self) -> Iterable[tuple[range, torch.Tensor]]:
        """See `Unembedding.blocks`."""
        return ((ids, self.weight_VD[ids.start : ids.stop]) for ids in blocks_of(self.num_rows, self.block_rows))


def blocks_of(num_rows: int, block_rows: int | None = None) -> list[range]:
    """The ids of each block of a vocabulary of this size. block_rows: `BLOCK_ROWS` if not given."""
    step = block_rows or BLOCK_ROWS
    return [range(first, min(first + step, num_rows)) for first in range(0, num_rows, step)]


def exact_dtype(stored: torch.dtype) -> torch.dtype:
    """In which logits are computed: float32 at least, since a bfloat16 head costs four times the error of that."""
    return torch.promote_types(stored, torch.float32)


def places_in(ids: range, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each target, its row of the block with these ids, and whether it has one; any row if not."""
    places = targets - ids.start
    return places.clamp(0, len(ids) - 1), (places >= 0) & (places < len(ids))
