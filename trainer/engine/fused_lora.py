"""LoRA on a linear layer in the fewest products, y = xWᵀ + bias + s · (xAᵀ)Bᵀ, in the place of PEFT's modules.

PEFT makes y three times (base, scaled update, sum), and above a base in bfloat16 keeps x in float32 for each adapted
layer. Shapes and dtypes alone decide which of three ways to the same sums is taken:

    few rows       torch's own operations, the update added by one product: a function in Python would take longer
    many rows      W' = W + s · BA is made anew, then y = xW'ᵀ and dx = dy W': that takes less than the products of x
                   and dy with A and B that it saves. Only x is kept, which layers of one input (q, k, v) share
    base in bf16   the update is added in float32 and rounded once; x is kept as it came, and cast in the backward

They differ from PEFT's by rounding, so a plan says by which a gradient was computed (docs/decisions/0056), and so it
does of the library that multiplies (`trainer.engine.products`). Few rows that torch would not multiply by itself have a
function, too, and so have layers without an adapter (`trainer.engine.frozen_linears`).
"""

# N rows (tokens), D inputs, O outputs, R rank

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from peft.tuners.lora import Linear
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainer.engine.products import TORCH, Products

_WORTH_MERGING = 1.5
"""How many times the multiplications of W' those that it saves must be: it is written and read, too."""


class FusedLora:
    """Computes PEFT's linear layers of a model; on unless a plan wants PEFT's own forward."""

    def __init__(self, products: Products = TORCH) -> None:
        self.is_on = True
        self._products = products

    def install(self, model: torch.nn.Module) -> None:
        """Take the place of the forward of each layer that was put in since."""
        for layer in model.modules():
            if type(layer) is Linear and "forward" not in vars(layer) and _is_plain(layer):
                layer.forward = partial(self._forward, layer, layer.forward)

    @contextmanager
    def switched(self, on: bool, products: Products | None = None) -> Generator[None]:
        """Passes inside are fused, by these products if they are given, or PEFT's."""
        before = self.is_on, self._products
        self.is_on, self._products = on, products or self._products
        try:
            yield
        finally:
            self.is_on, self._products = before

    def _forward(self, layer: Linear, of_peft: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self.is_on or args or kwargs or layer.disable_adapters:
            return of_peft(x, *args, **kwargs)
        (name,), base = layer.active_adapters, cast(torch.nn.Linear, layer.base_layer)
        if name not in layer.lora_A:  # an adapter of other parts
            return base(x)
        a_RD, b_OR = (cast(torch.Tensor, side[name].weight) for side in (layer.lora_A, layer.lora_B))
        # The weight is read at each call: FSDP puts another tensor into the module when it has gathered a layer.
        scale, products = layer.scaling[name], self._products
        y_NO = adapted_linear(x.reshape(-1, x.shape[-1]), base.weight, base.bias, a_RD, b_OR, scale, products)
        return y_NO.view(*x.shape[:-1], y_NO.shape[-1])  # an expert may be asked for no token at all


def _is_plain(layer: Linear) -> bool:
    return type(layer.base_layer) is torch.nn.Linear and not layer.fan_in_fan_out


def adapted_linear(
    x_ND: torch.Tensor,
    weight_OD: torch.Tensor,
    bias_O: torch.Tensor | None,
    a_RD: torch.Tensor,
    b_OR: torch.Tensor,
    scale: float,
    products: Products,
) -> torch.Tensor:
    """xWᵀ + bias + scale · (xAᵀ)Bᵀ in the dtype of x; gradient reaches x and the factors, W and bias are frozen."""
    if weight_OD.dtype != a_RD.dtype:
        return _BelowFloat32.apply(x_ND, weight_OD, bias_O, a_RD, b_OR, scale)  # pyright: ignore[reportReturnType]
    rounds = products.round_for(len(x_ND), weight_OD)  # which W' would not survive
    if is_merged(len(x_ND), weight_OD) and not rounds:
        return _Merged.apply(x_ND, weight_OD, bias_O, a_RD, b_OR, scale, products)  # pyright: ignore[reportReturnType]
    if products.differ_for(len(x_ND), weight_OD):
        return _Added.apply(x_ND, weight_OD, bias_O, a_RD, b_OR, scale, products)  # pyright: ignore[reportReturnType]
    return torch.addmm(functional.linear(x_ND, weight_OD, bias_O), x_ND @ a_RD.T, b_OR.T, alpha=scale)


def is_merged(num_rows: int, weight_OD: torch.Tensor) -> bool:
    """Whether W' is worth making for so many rows."""
    num_outputs, num_inputs = weight_OD.shape
    saved, made = num_rows * (num_inputs + num_outputs), 2 * num_inputs * num_outputs
    return saved >= _WORTH_MERGING * made


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x_ND: torch.Tensor,
        weight_OD: torch.Tensor,
        bias_O: torch.Tensor | None,
        a_RD: torch.Tensor,
        b_OR: torch.Tensor,
        scale: float,
        products: Products,
    ) -> torch.Tensor:
        ctx.scale, ctx.products = scale, products
        ctx.save_for_backward(x_ND, weight_OD, a_RD, b_OR)
        return products.linear(x_ND, torch.addmm(weight_OD, b_OR, a_RD, alpha=scale), bias_O)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, dy_NO: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        (x_ND, weight_OD, a_RD, b_OR), products = ctx.saved_tensors, ctx.products
        dx_ND = None
        if ctx.needs_input_grad[0]:
            dx_ND = products.multiply(dy_NO, torch.addmm(weight_OD, b_OR, a_RD, alpha=ctx.scale))
        da_RD = products.multiply(products.multiply(dy_NO, b_OR).mul_(ctx.scale).T, x_ND)
        # BLAS takes half as long again for the transposed product, whose result is narrow.
        db_OR = products.multiply(products.linear(x_ND, a_RD).mul_(ctx.scale).T, dy_NO).T
        return dx_ND, None, None, da_RD, db_OR, None, None


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x_ND: torch.Tensor,
        weight_OD: torch.Tensor,
        bias_O: torch.Tensor | None,
        a_RD: torch.Tensor,
        b_OR: torch.Tensor,
        scale: float,
        products: Products,
    ) -> torch.Tensor:
        inner_NR = products.linear(x_ND, a_RD)
        ctx.scale, ctx.products = scale, products
        ctx.save_for_backward(x_ND, weight_OD, a_RD, b_OR, inner_NR)
        return products.add_(products.frozen(x_ND, weight_OD, bias_O), inner_NR, b_OR.T, times=scale)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, dy_NO: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        (x_ND, weight_OD, a_RD, b_OR, inner_NR), products = ctx.saved_tensors, ctx.products
        inner_slopes_NR = products.multiply(dy_NO, b_OR).mul_(ctx.scale)
        dx_ND = None
        if ctx.needs_input_grad[0]:
            dx_ND = products.add_(products.through(dy_NO, weight_OD), inner_slopes_NR, a_RD)
        da_RD = products.multiply(inner_slopes_NR.T, x_ND)
        db_OR = products.multiply((inner_NR * ctx.scale).T, dy_NO).T
        return dx_ND, None, None, da_RD, db_OR, None, None


class _BelowFloat32(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x_ND: torch.Tensor,
        weight_OD: torch.Tensor,
        bias_O: torch.Tensor | None,
        a_RD: torch.Tensor,
        b_OR: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        inner_NR = x_ND.to(a_RD.dtype) @ a_RD.T
        ctx.scale = scale
        ctx.save_for_backward(x_ND, weight_OD, a_RD, b_OR, inner_NR)
        y_NO = functional.linear(x_ND, weight_OD, bias_O)
        return y_NO.to(a_RD.dtype).addmm_(inner_NR, b_OR.T, alpha=scale).to(x_ND.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, dy_NO: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        x_ND, weight_OD, a_RD, b_OR, inner_NR = ctx.saved_tensors
        exact_NO = dy_NO.to(a_RD.dtype)
        inner_slopes_NR = (exact_NO @ b_OR).mul_(ctx.scale)
        dx_ND = None
        if ctx.needs_input_grad[0]:
            dx_ND = (dy_NO @ weight_OD).to(a_RD.dtype).addmm_(inner_slopes_NR, a_RD).to(x_ND.dtype)
        da_RD = inner_slopes_NR.T @ x_ND.to(a_RD.dtype)
        db_OR = exact_NO.T @ (inner_NR * ctx.scale)
        return dx_ND, None, None, da_RD, db_OR, None
