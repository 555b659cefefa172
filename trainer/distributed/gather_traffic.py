"""The all-gathers of a sharded base: issued ahead of their use, and counted.

torch's own gather of a layer is waited for where it is issued. This one returns at once, so that the next layer comes
in while this one computes, and its buffer is free again as soon as it was copied from: at most two layers are whole at
any time, three with torch's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeAlias

import torch
import torch.distributed as dist

from wire.process.faults import fault_point

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

    def count(self, output: torch.Tensor, num_ranks: int) -> None:
        """A gather was issued."""
        self.number += 1
        self.received_bytes += output.nbytes * (num_ranks - 1) // num_ranks

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


class CountedAllGather:
    """The all-gather of one layer, for `FSDPModule.set_custom_all_gather`.

    issued: called before a gather is issued. failed: called with what was raised, in the process's place; raises.
    """

    def __init__(
        self, traffic: GatherTraffic, issued: Callable[[], None], failed: Callable[[Exception], Exception]
    ) -> None:
        self._traffic = traffic
        self._issued = issued
        self._failed = failed

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """The buffer that all ranks' shards come to."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work:
        """Issue it. Who uses the layer waits, whatever async_op says."""
        self._issued()
        fault_point("gather:before-issue")
        try:
            work = dist.all_gather_single(output_tensor, input_tensor, group, async_op=True)
        except RuntimeError as error:
            raise self._failed(error) from error
        assert work is not None
        fault_point("gather:after-issue")
        self._traffic.count(output_tensor, group.size())
        return _Wait(work, self._traffic, output_tensor.device, self._failed)


class _Wait(dist.Work):
    """A gather under way."""

    def __init__(
        self, work: dist.Work, traffic: GatherTraffic, device: torch.device, failed: Callable[[Exception], Exception]
    ) -> None:
        super().__init__()
        self._work = work
        self._traffic = traffic
        self._device = device
        self._failed = failed

    def wait(self, timeout: timedelta = timedelta(0)) -> bool:
        try:
            self._traffic.wait(self._work, self._device)
        except RuntimeError as error:
            raise self._failed(error) from error
        fault_point("gather:after-wait")
        return True
