"""Kernels of packed attention. A new one is a file here and a line in the table."""

from __future__ import annotations

import torch

from trainer.engine.kernels.base import Kernel
from trainer.engine.kernels.cascade import CascadeKernel
from trainer.engine.kernels.dense import DenseKernel
from trainer.engine.kernels.flex import FlexKernel

__all__ = ["KERNELS", "Kernel", "choose_kernel", "kernel_name"]

KERNELS: dict[str, type[Kernel]] = {"cascade": CascadeKernel, "flex": FlexKernel, "dense": DenseKernel}
"""Best first: the first that runs on a device is the one that is used there."""


def choose_kernel(device: torch.device) -> Kernel:
    """The best kernel for a device; the dense one runs on any."""
    return next(kernel() for kernel in KERNELS.values() if kernel.runs_on(device))


def kernel_name(kernel: Kernel) -> str:
    """The kernel's name in the table."""
    return next(name for name, of_name in KERNELS.items() if isinstance(kernel, of_name))
