"""What a tower makes of pictures: computed once each, and kept as long as there is room.

The tower is frozen, so features are the same for every model on a base and at every step. Each picture is encoded by
itself: their bits depend on the picture, the threads and the device, not on what else a call, a pack or a rank holds.
"""

# N tokens of a picture, D hidden size

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

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


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a process has made of pictures so far: how many went through the tower, in how many seconds, and how often
    features were still there; and the bytes of those that are kept now."""

    encoded: int = 0
    reused: int = 0
    seconds: float = 0.0
    num_bytes: int = 0


class FeatureCache:
    """Features by picture, size and threads, the latest used last. Beyond `max_bytes` the oldest are forgotten, but
    never those that are asked for now."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept = OrderedDict[tuple[bytes, int, int, int], Features]()
        self._so_far = Encoded()

    @property
    def so_far(self) -> Encoded:
        """May be called from any thread."""
        return self._so_far

    def get(self, media: Media, encode: Callable[[], Features]) -> Features:
        """Of this picture by torch's present number of threads; made by `encode`, which checks its size, where they are
        not kept."""
        key = media.digest, media.width, media.height, torch.get_num_threads()
        found = self._kept.pop(key, None)
        if found is None:
            found = self._timed(encode)
        else:
            self._so_far = replace(self._so_far, reused=self._so_far.reused + 1)
        self._kept[key] = found
        num_bytes = self._so_far.num_bytes
        while num_bytes > self.max_bytes and len(self._kept) > 1:
            num_bytes -= self._kept.popitem(last=False)[1].num_bytes
        self._so_far = replace(self._so_far, num_bytes=num_bytes)
        return found

    def _timed(self, encode: Callable[[], Features]) -> Features:
        """On a GPU, what it takes to start it: nothing waits for the device."""
        started, before = time.perf_counter(), self._so_far
        made = encode()
        seconds = before.seconds + time.perf_counter() - started
        self._so_far = Encoded(before.encoded + 1, before.reused, seconds, before.num_bytes + made.num_bytes)
        return made
