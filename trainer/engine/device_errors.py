"""What torch raises when a device has no memory left, or has failed."""

from __future__ import annotations

import torch

from wire.errors import DeviceLost, HeadwayError, OutOfMemory

_NO_HOST_MEMORY = ("can't allocate memory", "not enough memory")  # torch has no class for it


def device_error(error: Exception) -> HeadwayError | None:
    """The trouble; None for an exception that has nothing to do with the device."""
    if isinstance(error, torch.OutOfMemoryError) or _is_out_of_host_memory(error):
        return OutOfMemory("the trainer's device has no memory left for this batch; send shorter or fewer sequences")
    if isinstance(error, torch.AcceleratorError):
        reason = str(error).splitlines()[0]
        return DeviceLost(f"the trainer's device failed ({reason}); another trainer process goes on")
    return None


def _is_out_of_host_memory(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_HOST_MEMORY)
