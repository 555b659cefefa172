"""What a base takes on each device before anything is trained, counted from the shapes of its weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import psutil
import torch
from transformers import AutoConfig, PreTrainedModel

from trainer.engine.architectures import decoder_layers, vocabulary_modules
from trainer.engine.unembedding import blocks_of
from trainer.engine.vision.families import loader_of
from wire.process.control_groups import memory_left

_MANY_RANKS = 64
_BLOCKS_AT_ONCE = 2
"""The one that is used, and the next one."""


class BaseTooLarge(ValueError):
    """The base does not fit the device, or its part does not."""


def outline_of(name_or_path: str, dtype: torch.dtype, revision: str | None) -> PreTrainedModel:
    """The model on the meta device, where tensors have a shape and no memory. Raises OSError where there is none."""
    config = AutoConfig.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
    with torch.device("meta"):
        return loader_of(config).from_config(config, dtype=dtype, trust_remote_code=False)


def base_bytes(outline: PreTrainedModel, ranks: int) -> int:
    """Of one of so many ranks: its rows of each layer, which FSDP makes equally many for all, and of embedding and
    unembedding; what there is beside them, whole; and what comes together for a pass, which is the layer that computes
    and the next one, or two blocks of the vocabulary beside the memory that layers come to."""
    layers = [list(layer.parameters()) for layer in decoder_layers(outline)]
    vocabulary = {module.weight for module in vocabulary_modules(outline) if module is not None}
    divided = [*(parameter for layer in layers for parameter in layer), *vocabulary]
    whole = set(outline.parameters()) - set(divided)
    rows = sum(-(-len(p) // ranks) * _row_bytes(p) for p in divided)
    if ranks == 1:
        return rows + _bytes(whole)
    layer = max(map(_bytes, layers), default=0)
    block = max((len(blocks_of(len(weight))[0]) * _row_bytes(weight) for weight in vocabulary), default=0)
    return rows + _bytes(whole) + layer + max(layer, _BLOCKS_AT_ONCE * block)


def refuse_too_large(outline: PreTrainedModel, device: torch.device, ranks: int = 1, on_host: int = 1) -> None:
    """Raises BaseTooLarge, saying how many GPUs like this one would do, where a rank's part is more than is free.

    on_host: so many of the ranks, which begin at the same time, share this host's memory.
    """
    sharing = on_host if device.type == "cpu" else 1
    needed, free = base_bytes(outline, ranks), free_bytes(device) // sharing
    if needed <= free:
        return
    name = outline.name_or_path or type(outline).__name__
    each = f"each of {ranks} ranks" if ranks > 1 else "this process"
    place = f"on {device}" if sharing == 1 else f"for each of the {sharing} on this host"
    taken = f"{name} takes {_gb(needed)} of {each} before anything is trained, and {_gb(free)} are free {place}"
    if device.type == "cpu":
        raise BaseTooLarge(f"{taken}; take a smaller base, or a machine with more memory")
    fewest = next((count for count in range(2, _MANY_RANKS + 1) if base_bytes(outline, count) <= free), None)
    if fewest is None:
        raise BaseTooLarge(f"{taken}; no number of such GPUs would do")
    raise BaseTooLarge(f"{taken}; {fewest} such GPUs would do: headway trainer --gpus {fewest}")


def free_bytes(device: torch.device) -> int:
    """Of the GPU, or of the memory of the machine or of this process's container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available, left = psutil.virtual_memory().available, memory_left()
    return available if left is None else min(available, left)


def _bytes(parameters: Iterable[torch.Tensor]) -> int:
    return sum(parameter.nbytes for parameter in parameters)


def _row_bytes(parameter: torch.Tensor) -> int:
    return math.prod(parameter.shape[1:]) * parameter.itemsize


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
