"""Distinguishes base weights, cheaply: a path or a hub id may hold other weights tomorrow."""

from __future__ import annotations

import hashlib

import torch

_SAMPLES = 64  # of each parameter: enough to notice any retraining, and nothing next to loading the weights


def fingerprint(module: torch.nn.Module) -> str:
    """SHA-256 over names, shapes and some elements of the parameters, these as bfloat16.

    The same for one set of weights on any device, whether loaded as float32 or as bfloat16.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        flat = parameter.detach().flatten()
        values = flat[_spread(len(flat)).to(flat.device)].to("cpu", torch.bfloat16).view(torch.int16).numpy()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + values.tobytes())
    return digest.hexdigest()


def _spread(length: int) -> torch.Tensor:
    """Up to _SAMPLES indices from the first to the last, in integers: float32 steps run past 2**24 elements."""
    count = min(_SAMPLES, length)
    return torch.arange(count) * (length - 1) // max(count - 1, 1)
