"""Distinguishes base weights, cheaply: a path or a hub id may hold other weights tomorrow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch

_SAMPLES = 64  # of each parameter: enough to notice any retraining, and nothing next to loading the weights


def fingerprint(module: torch.nn.Module) -> str:
    """The same for one set of weights on any device, whether loaded as float32 or as bfloat16."""
    return digest(
        (name, parameter.shape, sampled(parameter, sampled_indices(parameter.numel())))
        for name, parameter in sorted(module.named_parameters())
    )


def digest(samples: Iterable[tuple[str, Sequence[int], torch.Tensor]]) -> str:
    """SHA-256 over names, shapes and sampled elements of the parameters, in the order of their names."""
    digest = hashlib.sha256()
    for name, shape, values in samples:
        digest.update(f"{name}{tuple(shape)}".encode() + values.cpu().numpy().tobytes())
    return digest.hexdigest()


def sampled(parameter: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """The parameter's elements at these places, as the 16 bits of a bfloat16."""
    return parameter.detach().flatten()[indices.to(parameter.device)].to(torch.bfloat16).view(torch.int16)


def sampled_indices(length: int) -> torch.Tensor:
    """Up to _SAMPLES places from the first to the last, in integers: float32 steps run past 2**24 elements."""
    count = min(_SAMPLES, length)
    return torch.arange(count) * (length - 1) // max(count - 1, 1)
