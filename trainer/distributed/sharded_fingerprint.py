"""The fingerprint of a base of which each rank holds some rows: the same as that of the whole."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from trainer.engine.fingerprint import digest, sampled, sampled_indices


def sharded_fingerprint(module: torch.nn.Module) -> str:
    """All ranks call it; one small sum over them, in which each has what it holds of the elements that are sampled."""
    named = sorted(module.named_parameters())
    samples = [_held(parameter) for _, parameter in named]
    together = torch.cat(samples)
    dist.all_reduce(together)
    found = together.cpu().to(torch.int16).split([len(sample) for sample in samples])
    return digest((name, parameter.shape, sample) for (name, parameter), sample in zip(named, found, strict=True))


def _held(parameter: torch.Tensor) -> torch.Tensor:
    """The sampled elements as int32, zero where another rank contributes them. Rank 0 does what is whole on all."""
    indices = sampled_indices(parameter.numel()).to(parameter.device)
    found = torch.zeros(len(indices), dtype=torch.int32, device=parameter.device)
    if isinstance(parameter, DTensor):
        local, (first_row, *_) = parameter.to_local(), _offset(parameter)
        places = indices - first_row * (parameter.numel() // max(len(parameter), 1))
        is_mine = (places >= 0) & (places < local.numel())
        found[is_mine] = sampled(local, places[is_mine]).to(torch.int32)
    elif dist.get_rank() == 0:
        found[:] = sampled(parameter, indices)
    return found


def _offset(parameter: DTensor) -> tuple[int, ...]:
    return compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)[1]
