"""The linear layers of a base on a CPU where no adapter is on them: by the products of those with one, in this pass or
in another, for a base is scored without its adapters too."""

# N rows (tokens), D inputs, O outputs

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedModel

from trainer.engine.products import TORCH, Products
from trainer.engine.text_part import text_linears
from wire.process.product_dtype import is_worth_rounding


class FrozenLinears:
    """Takes the place of the forward of all of them but the head, which `trainer.engine.logprobs` computes. A tower's
    stay torch's: what it makes of a picture does not depend on the plan."""

    def __init__(self, model: PreTrainedModel, products: Products = TORCH) -> None:
        self.products = products
        head = model.get_output_embeddings()
        linears = [module for module in text_linears(model).values() if type(module) is torch.nn.Linear]
        linears = [module for module in linears if module is not head]
        self._layers = linears if model.device.type == "cpu" else []
        for layer in self._layers:
            layer.forward = partial(self._forward, layer)  # pyright: ignore[reportAttributeAccessIssue]

    @contextmanager
    def switched(self, products: Products) -> Generator[None]:
        """Passes inside are by these products."""
        before, self.products = self.products, products
        try:
            yield
        finally:
            self.products = before

    def weights_worth_rounding(self) -> list[torch.Tensor]:
        """What this process holds of them."""
        weights = [layer.weight for layer in self._layers if is_worth_rounding(layer.weight.numel())]
        return [getattr(weight, "to_local", weight.detach)() for weight in weights]

    def _forward(self, layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        x_ND = x.reshape(-1, x.shape[-1])
        if layer.weight.requires_grad or not self.products.differ_for(len(x_ND), layer.weight):
            return functional.linear(x, layer.weight, layer.bias)
        y_NO: Any = _Frozen.apply(x_ND, layer.weight, layer.bias, self.products)
        return y_NO.view(*x.shape[:-1], y_NO.shape[-1])


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x_ND: torch.Tensor, weight_OD: torch.Tensor, bias_O: torch.Tensor | None, products: Products
    ) -> torch.Tensor:
        ctx.products = products
        ctx.save_for_backward(weight_OD)
        return products.frozen(x_ND, weight_OD, bias_O)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, dy_NO: torch.Tensor
    ) -> tuple[torch.Tensor, None, None, None]:
        (weight_OD,) = ctx.saved_tensors
        return ctx.products.through(dy_NO, weight_OD), None, None, None
