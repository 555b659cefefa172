"""Which device it is, and how full a GPU is."""

from __future__ import annotations

from collections.abc import Iterator

import torch


def device_name(device: torch.device) -> str:
    """For people: `cpu`, or `cuda:0 (NVIDIA H200)`."""
    name = gpu_name(device)
    return f"{device} ({name})" if name else str(device)


def gpu_name(device: torch.device) -> str | None:
    """Its product's; None of what is no GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def device_memory(device: str) -> Iterator[tuple[tuple[str, ...], float]]:
    """Bytes by state: used by tensors, their peak, reserved by torch, and the device's free and total. Nothing on a
    CPU."""
    if not device.startswith("cuda"):
        return
    free, total = torch.cuda.mem_get_info(device)
    yield ("tensors",), torch.cuda.memory_allocated(device)
    yield ("tensors_peak",), torch.cuda.max_memory_allocated(device)
    yield ("reserved",), torch.cuda.memory_reserved(device)
    yield ("free",), free
    yield ("total",), total
