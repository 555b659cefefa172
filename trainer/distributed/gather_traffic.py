"""What the gathers of a sharded base have moved, and how long its passes stood still for them."""

from __future__ import annotations

import time
from typing import TypeAlias

import torch
import torch.distributed as dist

_Interval: TypeAlias = tuple[torch.cuda.Event, torch.cuda.Event]

_MANY_INTERVALS = 1024


class GatherTraffic:
    """What the gathers of this rank have moved since it started, and how long its passes stood still for them.

    number: of gathers. received_bytes: from other ranks. Both only grow.
    """

    def __init__(self) -> None:
        self.number = 0
        self.received_bytes = 0
        self._waited_s = 0.0
        self._on_device = list[_Interval]()

    def waited_s(self) -> float:
        """Seconds in which a pass waited for a gather: of this process on a CPU, of the compute stream on a GPU."""
        self._settle()
        return self._waited_s

    def count(self, received_bytes: int) -> None:
        """A gather was issued, to which other ranks send so much."""
        self.number += 1
        self.received_bytes += received_bytes

    def wait(self, work: dist.Work, device: torch.device) -> None:
        """Wait for a gather, and count how long that took."""
        if device.type == "cuda":
            started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            started.record()
            work.wait()
            ended.record()
            self._on_device.append((started, ended))
            if len(self._on_device) >= _MANY_INTERVALS:
                self._settle()
            return
        before = time.perf_counter()
        work.wait()
        self._waited_s += time.perf_counter() - before

    def _settle(self) -> None:
        intervals, self._on_device = self._on_device, []
        for started, ended in intervals:
            ended.synchronize()
            self._waited_s += started.elapsed_time(ended) / 1000
