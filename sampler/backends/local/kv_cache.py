"""Keys and values of the running sequences: one row each, all rows of one length, together within a token budget."""

# N layers, R rows, K key heads, S slots (positions) of a row, E head dimension

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_MIN_ROWS, _MIN_LENGTH, _LENGTH_STEP = 8, 256, 64


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What the base model needs of a cache, and how many token slots it may have in all."""

    num_layers: int
    num_key_heads: int
    head_dim: int
    dtype: torch.dtype
    max_tokens: int


class SlotCache:
    """`slots_2NRKSE[0]` are the keys, `[1]` the values. Rows in use are always 0 … n − 1.

    A slot that was never written holds zeros, not whatever memory held: attention multiplies masked slots by zero,
    and zero times NaN is NaN.
    """

    def __init__(self, shape: CacheShape) -> None:
        self._shape = shape
        self.slots_2NRKSE = self._allocate(0, 0)

    @property
    def num_rows(self) -> int:
        return self.slots_2NRKSE.shape[2]

    @property
    def length(self) -> int:
        return self.slots_2NRKSE.shape[4]

    def fits(self, rows: int, length: int) -> bool:
        """Whether the budget allows this many rows of this length."""
        return rows * length <= self._shape.max_tokens

    def reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` rows of `length` tokens, keeping what those hold. They must fit."""
        assert self.fits(rows, length), "the scheduler asked for more than the budget"
        if rows <= self.num_rows and length <= self.length:
            return
        grown = self._allocate(*self._roomy(rows, length))
        kept_rows = min(self.num_rows, grown.shape[2])
        kept_length = min(self.length, grown.shape[4])
        grown[:, :, :kept_rows, :, :kept_length] = self.slots_2NRKSE[:, :, :kept_rows, :, :kept_length]
        self.slots_2NRKSE = grown

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a row."""
        self.slots_2NRKSE[:, :, target, :, :length] = self.slots_2NRKSE[:, :, source, :, :length]

    def wipe_row(self, row: int) -> None:
        """Make a row as if never written."""
        self.slots_2NRKSE[:, :, row] = 0

    def _roomy(self, rows: int, length: int) -> tuple[int, int]:
        """The shape to allocate: with slack to grow into as far as the budget has it, length before rows."""
        roomy_rows = max(_MIN_ROWS, self.num_rows, _power_of_two(rows))
        lengths = (max(_MIN_LENGTH, _power_of_two(length)), -(-length // _LENGTH_STEP) * _LENGTH_STEP, length)
        candidates = [(r, s) for r in (roomy_rows, rows) for s in lengths]
        return next((r, s) for r, s in candidates if self.fits(r, s))

    def _allocate(self, rows: int, length: int) -> Tensor:
        s = self._shape
        return torch.zeros(2, s.num_layers, rows, s.num_key_heads, length, s.head_dim, dtype=s.dtype)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
