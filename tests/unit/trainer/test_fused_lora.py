"""One function computes what PEFT's chain of modules does, keeps less, and gives way to it where a plan says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import peft
import pytest
import torch

from tests.unit.trainer.naive import worst_relative_error
from tests.unit.trainer.tiny import (
    LORA,
    MODEL,
    OTHER,
    BatchEngine,
    deep_batch,
    gradients,
    mixed_batch,
    opened,
    session,
    tiny_engine,
    tiny_model,
)
from trainer.engine import fused_lora
from trainer.engine.base_model import BaseModel
from trainer.engine.fused_lora import FusedLora, is_merged
from trainer.engine.recomputation import saved_bytes
from wire.conversion import to_datums
from wire.engine import LossChoice
from wire.plans import FUSED_LORA, PEFT_LORA

LOSS = LossChoice("importance_sampling")
INPUTS, OUTPUTS, RANK = 12, 20, 3
FEW, MANY = 5, 60
"""Rows for which the weight is left alone, and merged."""

Layer = torch.nn.Module


def layer_of(dtype: torch.dtype, *, bias: bool = False) -> Layer:
    """A linear layer that PEFT has adapted, with a B that is not zero."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(INPUTS, OUTPUTS, bias=bias).requires_grad_(False))
    config = peft.LoraConfig(r=RANK, lora_alpha=6, target_modules=["0"])
    layer = peft.inject_adapter_in_model(config, model.to(dtype))[0]
    for side in (layer.lora_A, layer.lora_B):
        side.to(torch.promote_types(dtype, torch.float32))["default"].weight.data.normal_()
    return layer


def computed(layer: Layer, x_ND: torch.Tensor) -> list[torch.Tensor]:
    """y, and the gradients of x, A and B."""
    x_ND = x_ND.clone().requires_grad_()
    factors = [side["default"].weight for side in (layer.lora_A, layer.lora_B)]
    y_NO = layer(x_ND)
    weights_NO = torch.linspace(-1, 1, y_NO.numel(), dtype=y_NO.dtype).view_as(y_NO).sin()
    return [y_NO.detach(), *torch.autograd.grad((y_NO * weights_NO).sum(), [x_ND, *factors])]


@contextmanager
def by_peft_alone() -> Iterator[None]:
    with patch.object(FusedLora, "install"):
        yield


@pytest.mark.parametrize("rows", [FEW, MANY, (1, MANY), (3, 1, 4)])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-14), (torch.float32, 4e-7), (torch.bfloat16, 8e-3)])
def test_it_equals_peft_to_rounding(rows, bias: bool, dtype: torch.dtype, error: float) -> None:
    layer = layer_of(dtype, bias=bias)
    x_ND = torch.randn(*([rows] if isinstance(rows, int) else rows), INPUTS, dtype=dtype)
    expected = computed(layer, x_ND)
    fused = FusedLora()
    fused.install(torch.nn.Sequential(layer))
    for ours, theirs in zip(computed(layer, x_ND), expected, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ((ours - theirs).double().norm() / theirs.double().norm()).item() <= error
    with fused.switched(on=False):
        assert all(torch.equal(*pair) for pair in zip(computed(layer, x_ND), expected, strict=True))


@pytest.mark.parametrize("shape", [(0, INPUTS), (1, 0, INPUTS)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_rows_give_no_rows_and_no_gradient(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    layer = layer_of(dtype)
    FusedLora().install(torch.nn.Sequential(layer))
    y_NO, of_x, *of_factors = computed(layer, torch.empty(shape, dtype=dtype))
    assert (y_NO.shape, of_x.shape) == ((*shape[:-1], OUTPUTS), shape)
    assert not any(gradient.any() for gradient in of_factors)


def test_the_shapes_alone_decide_whether_the_weight_is_merged() -> None:
    weight = layer_of(torch.float32).base_layer.weight
    assert [is_merged(rows, weight) for rows in (FEW, MANY)] == [False, True]


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize(("wanted", "products"), [(False, 6), (True, 8)])
def test_there_are_no_more_products_than_gradients_need(rows: int, wanted: bool, products: int) -> None:
    layer = layer_of(torch.float32)
    FusedLora().install(torch.nn.Sequential(layer))
    with torch.profiler.profile() as profiler:
        layer(torch.randn(rows, INPUTS, requires_grad=wanted)).sum().backward()
    names = {"aten::mm", "aten::addmm", "aten::addmm_"}
    assert sum(event.count for event in profiler.key_averages() if event.key in names) == products


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 0.98), (torch.bfloat16, 0.75)])
def test_a_pass_keeps_less_than_by_peft(dtype: torch.dtype, share: float) -> None:
    base = BaseModel(tiny_model(dtype=dtype))
    base.bind(session(opened(BatchEngine(base))))
    pack = base.pack(to_datums(mixed_batch()))
    kept = {}
    for lora in (FUSED_LORA, PEFT_LORA):
        with base.computing_by("cascade", lora, base.head_rows, base.products):
            kept[lora] = saved_bytes(lambda: base.logprobs(pack)[0])
    assert kept[FUSED_LORA] < share * kept[PEFT_LORA]


def test_a_plan_without_it_is_computed_by_peft_to_the_bit() -> None:
    engine = opened(tiny_engine())
    plan = engine.plan(mixed_batch())
    engine.forward_backward(MODEL, mixed_batch(), LOSS, replace(plan, lora=PEFT_LORA))
    with by_peft_alone():
        earlier = opened(tiny_engine())
        earlier.forward_backward(MODEL, mixed_batch(), LOSS)
    assert torch.equal(session(engine).gradient, session(earlier).gradient)
    session(engine).gradient.zero_()
    with patch.object(fused_lora, "adapted_linear", wraps=fused_lora.adapted_linear) as fused:
        engine.forward_backward(MODEL, mixed_batch(), LOSS, replace(plan, lora=PEFT_LORA))
        fused.assert_not_called()
        session(engine).gradient.zero_()
        engine.forward_backward(MODEL, mixed_batch(), LOSS, plan)
        fused.assert_called()
    assert worst_relative_error(gradients(engine), gradients(earlier)) <= 1e-5


def test_layers_that_a_later_adapter_puts_in_are_fused_too() -> None:
    engine = opened(tiny_engine(), lora=replace(LORA, mlp=False))
    opened(engine, OTHER, lora=LORA)
    linear = torch.nn.functional.linear
    for model, adapted in ((MODEL, 4), (OTHER, 7)):
        with patch.object(fused_lora, "adapted_linear", side_effect=lambda x, weight, *_: linear(x, weight)) as spy:
            engine.forward(model, deep_batch())
        assert spy.call_count == adapted * tiny_model().config.num_hidden_layers
