"""What a tower makes of pictures: computed once each, and kept as long as there is room.

The tower is frozen, so features are the same for every model on a base and at every step. Each picture is encoded by
itself: their bits depend on the picture, the threads and the device, not on what else a call, a pack or a rank holds.
"""

# N tokens of a picture, D hidden size

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch

from wire.extension import Media


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """rows_ND: take the place of the embeddings of a picture's tokens. levels: each (N, D), added to the hidden states
    of these tokens behind the first text layers, one a layer."""

    rows_ND: torch.Tensor
    levels: tuple[torch.Tensor, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Of all of them."""
        return sum(tensor.nbytes for tensor in (self.rows_ND, *self.levels))


class FeatureCache:
    """Features by picture, size and threads, the latest used last. Beyond `max_bytes` the oldest are forgotten, but
    never those that are asked for now."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept = OrderedDict[tuple[bytes, int, int, int], Features]()
        self._num_bytes = 0

    def get(self, media: Media, encode: Callable[[], Features]) -> Features:
        """Of this picture by torch's present number of threads; made by `encode`, which checks its size, where they are
        not kept."""
        key = media.digest, media.width, media.height, torch.get_num_threads()
        found = self._kept.pop(key, None)
        if found is None:
            found = encode()
            self._num_bytes += found.num_bytes
        self._kept[key] = found
        while self._num_bytes > self.max_bytes and len(self._kept) > 1:
            self._num_bytes -= self._kept.popitem(last=False)[1].num_bytes
        return found
