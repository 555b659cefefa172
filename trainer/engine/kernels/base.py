"""What a kernel of packed attention is: attention over a prefix tree, exact, forwards and backwards."""

# H query heads, K key heads, T packed tokens, E head dimension

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch

from trainer.engine.prefix_tree import PrefixTree


class Kernel(ABC):
    """min_shared: the fewest tokens for which a node of the tree is worth its overhead, see `build_tree`."""

    min_shared: ClassVar[int] = 1

    @staticmethod
    @abstractmethod
    def runs_on(device: torch.device) -> bool:
        """Whether this machine has what the kernel needs."""

    @abstractmethod
    def prepare(self, tree: PrefixTree, window: int | None, device: torch.device, dtype: torch.dtype) -> Any:
        """What all layers of one window share: made once a pack, and handed to `attend`.

        window: a token sees itself and the window − 1 tokens before it; None is all of them. In a two-way node it sees
        all that come behind it, too.
        """

    @abstractmethod
    def attend(
        self, query_1HTE: torch.Tensor, key_1KTE: torch.Tensor, value_1KTE: torch.Tensor, prepared: Any, scale: float
    ) -> torch.Tensor:
        """[1, T, H, E]: each token's attention to itself and to those above it in the tree."""
