"""The processes that compute one pass together: what they agree upon, and in which order they add.

Every rank runs the same calls with the same arguments and holds the same weights, gradients and moments. A rank
computes its shards of the plan; what a rank does alone must not decide how many collectives it takes part in.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TypeVar

import torch

Found = TypeVar("Found")


class Signal(Exception):
    """What is raised on one rank to have all of them do something, and not to be told to a caller."""


class ShardSum(Protocol):
    """The sum of all shards' gradients, in the order of the shards, whoever computed them."""

    def add(self, shard: int, gradient: torch.Tensor) -> None:
        """One shard's; what is added may be written to afterwards. A rank adds its own shards, in their order."""
        ...

    def total(self) -> torch.Tensor:
        """shard 0 + shard 1 + …, equal to the bit on all ranks and for any number of them. Once, at the end."""
        ...


class Ranks(Protocol):
    """This process among those of its group."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def agreed(self) -> AbstractContextManager[None]:
        """All ranks carry out the block; if it raises on one, it raises on all, the error of the lowest rank that has
        one. What it leaves behind is then up to who raises."""
        ...

    def meet(self) -> None:
        """Wait for all ranks, however long they take: each reads a base from its own disk."""
        ...

    def gathered(self, mine: Found) -> Sequence[Found]:
        """What each rank has found, in the order of ranks."""
        ...

    def copy_from_first(self, tensor: torch.Tensor) -> None:
        """Rank 0's values, in place."""
        ...

    def shard_sum(self, num_shards: int, like: torch.Tensor) -> ShardSum:
        """For the gradients of so many shards, of the shape, kind and device of `like`."""
        ...


@contextmanager
def at_own_pace(ranks: Ranks) -> Generator[None]:
    """As `agreed`, of a block that takes one rank much longer than another."""
    with ranks.agreed():
        try:
            yield
        finally:
            ranks.meet()


class Alone:
    """A group of one: nothing is sent, nothing waited for."""

    rank, size = 0, 1

    def agreed(self) -> AbstractContextManager[None]:
        """The block itself."""
        return nullcontext()

    def meet(self) -> None:
        """Nobody else is there."""

    def gathered(self, mine: Found) -> Sequence[Found]:
        """What this process has found."""
        return [mine]

    def copy_from_first(self, tensor: torch.Tensor) -> None:
        """Nothing."""

    def shard_sum(self, num_shards: int, like: torch.Tensor) -> RunningSum:
        """One buffer, whatever the number of shards."""
        return RunningSum(num_shards)


class RunningSum:
    """Adds shards as they come, in their order."""

    def __init__(self, num_shards: int) -> None:
        self._num_shards = num_shards
        self._added = 0
        self._total: torch.Tensor | None = None

    def add(self, shard: int, gradient: torch.Tensor) -> None:
        """Adds to what is there. The last of all is not copied: it is not written to before the sum is taken."""
        assert shard == self._added < self._num_shards, "shards are added in their order"
        self._added += 1
        if self._total is not None:
            self._total += gradient
        else:
            self._total = gradient if self._num_shards == 1 else gradient.clone()

    def total(self) -> torch.Tensor:
        """The sum."""
        assert self._total is not None
        assert self._added == self._num_shards, "a shard is missing"
        return self._total
