"""Live adapters: PEFT layers whose weights are views of whichever session's buffer is bound.

Models that share a base and a LoRA shape share the layers too. To switch models is to point the parameters at
another buffer: no weight is copied.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import cast

import peft
import torch
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from trainer.engine.logprobs import HeadUpdate
from trainer.engine.lora_layout import LoraLayout
from trainer.engine.text_part import tower_names
from wire.engine import LoraConfig


class AdaptedLayers:
    """A model's LoRA layers, and which adapter computes in all of them.

    PEFT's `set_adapter` and `enable_adapters` set requires_grad of every adapter in every layer: 11 ms with two shapes
    on 36 layers, 79 ms with 32. Here the layers read one list and one flag, and every adapter may have gradients: only
    the one that computes gets any.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._layers = list[LoraLayer]()
        self._active = [""]

    def inject(self, config: peft.LoraConfig, name: str) -> None:
        """Put in the layers of another adapter. None computes until one is chosen."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            # A tied embedding is neither adapted nor merged into.
            warnings.filterwarnings("ignore", message="Model (with|has) `tie_word_embeddings=True`")
            peft.inject_adapter_in_model(config, self.model, adapter_name=name)
        self._layers = [module for module in self.model.modules() if isinstance(module, LoraLayer)]
        self.choose("")
        for layer in self._layers:
            vars(layer)["_active_adapter"] = self._active
            for side in (layer.lora_A, layer.lora_B):
                side.requires_grad_()

    def choose(self, name: str) -> None:
        """Let this adapter compute, and no other's layers, of whatever parts."""
        self._active[0] = name

    @contextmanager
    def switched_off(self) -> Generator[None]:
        """Let the base model compute alone inside the block; no weight or gradient is touched."""
        try:
            self._disable(True)
            yield
        finally:
            self._disable(False)

    def _disable(self, disabled: bool) -> None:
        for layer in self._layers:
            vars(layer)["_disable_adapters"] = disabled


class LiveAdapter:
    """The LoRA layers of one shape, and the scratch buffer that a backward accumulates into while weights are bound.

    PEFT computes those inside of the model. The unembedding's is for `logprobs` to compute, chunk by chunk.
    """

    def __init__(self, layers: AdaptedLayers, lora: LoraConfig, targets: list[str], dtype: torch.dtype) -> None:
        self.name = "-".join([f"r{lora.rank}a{lora.alpha}", *lora.parts])
        self._layers = layers
        self._dtype = dtype
        self.config = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            target_modules=targets,
            exclude_modules=_inside(tower_names(layers.model)),
            bias="none",
            task_type="CAUSAL_LM",
        )
        layers.inject(self.config, self.name)
        self._head = layers.model.get_output_embeddings() if lora.unembed else None
        named = list(self._own_parameters(layers.model))
        self._parameters = [parameter for _, parameter in named]
        self._bound: torch.Tensor | None = None
        self.layout = LoraLayout(
            names=tuple(f"base_model.model.{name.replace(f'.{self.name}.', '.')}" for name, _ in named),
            shapes=tuple((p.shape[0], p.shape[1]) for p in self._parameters),
        )
        self._device = self._parameters[0].device
        self._scratch_gradient: torch.Tensor | None = None

    def activate(self) -> None:
        """Make these the LoRA layers that compute and that get gradients."""
        self._layers.choose(self.name)

    @property
    def scratch_gradient(self) -> torch.Tensor:
        """Flat, of the bound weights; it is freed with them, so that shapes that nobody uses keep no memory."""
        assert self._scratch_gradient is not None, "bind weights first"
        return self._scratch_gradient

    @property
    def head_update(self) -> HeadUpdate | None:
        """What is added to the unembedding; None where it is frozen, or switched off."""
        if not isinstance(self._head, LoraLayer) or self._head.disable_adapters:
            return None
        sides = (self._head.lora_A, self._head.lora_B)
        a_RD, b_VR = (cast(torch.Tensor, side[self.name].weight) for side in sides)
        return HeadUpdate(a_RD, b_VR, self._head.scaling[self.name])

    def bind(self, weights: torch.Tensor) -> None:
        """Point the parameters at a flat buffer, and their gradients at the scratch."""
        if self._bound is weights:
            return
        if self._scratch_gradient is None:
            self._scratch_gradient = torch.zeros(self.layout.num_parameters, dtype=self._dtype, device=self._device)
        views = zip(self.layout.views(weights), self.layout.views(self._scratch_gradient), strict=True)
        for parameter, (weight, gradient) in zip(self._parameters, views, strict=True):
            parameter.grad = None
            parameter.data = weight
            parameter.grad = gradient
        self._bound = weights

    def release(self) -> None:
        """Let go of the bound buffer and of the gradient, whose memory can then be freed; the weights are zero until
        the next bind."""
        if self._bound is None:
            return
        nothing = self._bound.new_zeros(())
        for parameter, shape in zip(self._parameters, self.layout.shapes, strict=True):
            parameter.data = nothing.expand(shape)
            parameter.grad = None
        self._bound = self._scratch_gradient = None

    def _own_parameters(self, model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((name, p) for name, p in model.named_parameters() if f".{self.name}." in name)


def _inside(paths: list[str]) -> str | None:
    """What PEFT matches with all of a module's path: those inside of these modules, also under a wrapper's prefix."""
    return rf"(.*\.)?({'|'.join(map(re.escape, paths))})\..*" if paths else None
