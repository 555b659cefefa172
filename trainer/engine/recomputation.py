"""Activation checkpointing: a decoder layer keeps its input alone, and is computed again in the backward pass.

The layers compute the same twice, so that gradients are the same to the bit; a third to a half more time buys a tenth
of the memory. transformers' own switch also puts layers into training mode, with dropout where a configuration has
some.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from trainer.engine.architectures import decoder_layers


class Recomputation:
    """Takes the place of each decoder layer's forward; off until asked for."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._on = False
        for layer in decoder_layers(model):
            layer.forward = partial(self._forward, layer.forward)

    @contextmanager
    def switched(self, on: bool) -> Generator[None]:
        """Passes that begin inside keep only the layers' inputs, if `on`."""
        self._on = on
        try:
            yield
        finally:
            self._on = False

    def _forward(self, layer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._on and torch.is_grad_enabled():
            return checkpoint(layer, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
        return layer(*args, **kwargs)


def saved_bytes(run: Callable[[], torch.Tensor]) -> int:
    """Bytes that autograd keeps for the backward of what `run` computes, each storage counted once."""
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter) and not _is_parameters(tensor):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes(), tensor.detach()
        return tensor.detach()  # an output that a node keeps of itself would keep the graph for good

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()
    del output
    return sum(nbytes for nbytes, _ in kept.values())


def _is_parameters(tensor: torch.Tensor) -> bool:
    return isinstance(tensor._base, torch.nn.Parameter)
