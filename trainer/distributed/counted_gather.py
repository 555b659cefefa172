"""A gather of weights as it is issued and waited for: counted, and with what it raises named."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from trainer.distributed.gather_traffic import GatherTraffic
from wire.process.faults import fault_point


class CountedGather:
    """issued: called before it is issued. failed: called with what it raised; returns what to raise instead."""

    def __init__(
        self, traffic: GatherTraffic, issued: Callable[[], None], failed: Callable[[Exception], Exception]
    ) -> None:
        self._traffic = traffic
        self._issued = issued
        self._failed = failed

    def issue(self, begin: Callable[[], Sequence[dist.Work | None]], received_bytes: int) -> list[dist.Work]:
        """begin: starts its collectives, and does not wait for them. received_bytes: from other ranks."""
        self._issued()
        fault_point("gather:before-issue")
        try:
            works = [work for work in begin() if work is not None]
        except RuntimeError as error:
            raise self._failed(error) from error
        fault_point("gather:after-issue")
        self._traffic.count(received_bytes)
        return works

    def wait(self, works: Sequence[dist.Work], device: torch.device) -> None:
        """Until all that was gathered is there."""
        try:
            for work in works:
                self._traffic.wait(work, device)
        except RuntimeError as error:
            raise self._failed(error) from error
        fault_point("gather:after-wait")
