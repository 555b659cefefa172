"""The all-gather of one layer: issued ahead of its use, into a buffer that all layers share, and counted.

torch's own is waited for where it is issued, into memory of its own. This one returns at once, so that the next layer
comes in while this one computes. A layer is copied out of the buffer before the next one is asked for, so that one
buffer is enough: two layers are whole at any time, three with torch's, and no page is cleared anew in each pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

from trainer.distributed.counted_gather import CountedGather


class GatherBuffer:
    """Where layers come together, one after the other; as large as the largest of them, from the first pass on."""

    def __init__(self) -> None:
        self._bytes: torch.Tensor | None = None
        self._is_taken = False

    def take(self, size: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """The buffer, or other memory while it is taken."""
        if self._is_taken:
            return torch.empty(*size, dtype=dtype, device=device)
        num_bytes = math.prod(size) * dtype.itemsize
        if self._bytes is None or len(self._bytes) < num_bytes:
            self._bytes = None
            self._bytes = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        self._is_taken = True
        return self._bytes[:num_bytes].view(dtype).view(*size)

    def release(self) -> None:
        """What came to it is about to be copied, or not wanted."""
        self._is_taken = False


class LayerAllGather:
    """For `FSDPModule.set_custom_all_gather`."""

    def __init__(self, buffer: GatherBuffer, gather: CountedGather) -> None:
        self._buffer = buffer
        self._gather = gather

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Where the shards of all ranks come to."""
        return self._buffer.take(size, dtype, device)

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work:
        """Issue it. Who uses the layer waits, whatever async_op says."""
        (work,) = self._gather.issue(
            lambda: [dist.all_gather_single(output_tensor, input_tensor, group, async_op=True)],
            output_tensor.nbytes - input_tensor.nbytes,
        )
        return _UnderWay(work, self, output_tensor.device)

    def wait(self, work: dist.Work, device: torch.device) -> None:
        """Until all shards are there, and may be copied."""
        self._gather.wait([work], device)
        self._buffer.release()


class _UnderWay(dist.Work):
    def __init__(self, work: dist.Work, gather: LayerAllGather, device: torch.device) -> None:
        super().__init__()
        self._work = work
        self._gather = gather
        self._device = device

    def wait(self, timeout: timedelta = timedelta(0)) -> bool:
        self._gather.wait(self._work, self._device)
        return True
