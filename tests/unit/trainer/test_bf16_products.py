"""A base that is stored in bfloat16 is multiplied in it where that was asked for and agrees with float32; a plan says
by which a gradient was computed, and is followed by trainers with the other setting and on other processors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from tests.unit.trainer.tiny import LORA, MODEL, BatchEngine, mixed_batch, opened, session, tiny_model
from trainer.engine import bf16_check, products
from trainer.engine.base_model import BaseModel, load_base_model
from trainer.engine.canary import compute_canary
from trainer.engine.engine import EngineSettings
from trainer.engine.fused_lora import adapted_linear
from trainer.engine.products import TORCH, Bf16Products
from wire.conversion import to_datums
from wire.engine import LossChoice
from wire.plans import BF16_PRODUCTS, TORCH_PRODUCTS, decode_plan, encode_plan
from wire.process import product_dtype
from wire.process.product_dtype import ProductDtype

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor and torch compute no bfloat16 products"
)

LOSS = LossChoice("importance_sampling")
ULP = 2**-8
"""Between neighbours in bfloat16, by their size, at most."""


@pytest.fixture(autouse=True)
def processor() -> Iterator[None]:
    """One that has the instructions, for which no layer is too small."""
    with (
        patch.object(bf16_check, "multiplies_bf16", return_value=True),
        patch.object(products, "multiplies_bf16", return_value=True),
        patch.object(product_dtype, "LEAST_WEIGHTS", 0),
    ):
        yield


def rounded_model(architecture: str = "qwen3"):
    model = tiny_model(architecture)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return model


def engine_in(dtype: ProductDtype, architecture: str = "qwen3") -> BatchEngine:
    base = BaseModel(rounded_model(architecture), products=dtype)
    return opened(BatchEngine(base, EngineSettings(threads=1)))


def learnt(engine: BatchEngine, plan=None) -> torch.Tensor:
    session(engine).gradient.zero_()
    engine.forward_backward(MODEL, mixed_batch(), LOSS, plan)
    return session(engine).gradient.clone()


def off_by(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize("emulated", [False, True])
def test_factors_and_result_are_rounded_and_sums_are_not(emulated: bool) -> None:
    by = Bf16Products()
    by.are_emulated = emulated
    torch.manual_seed(0)
    x_NI, weight_OI, bias_O = torch.randn(9, 300), torch.randn(7, 300).bfloat16().float(), torch.randn(7)
    exact_NO = x_NI.bfloat16().double() @ weight_OI.double().T
    found_NO = by.frozen(x_NI, weight_OI)
    assert torch.equal(found_NO, found_NO.bfloat16().float())
    assert torch.allclose(found_NO.double(), exact_NO, rtol=ULP, atol=1e-5)
    assert torch.equal(by.frozen(x_NI, weight_OI, bias_O), found_NO + bias_O)
    dy_NO = torch.randn(9, 7)
    exact_NI = dy_NO.bfloat16().double() @ weight_OI.double()
    assert torch.allclose(by.through(dy_NO, weight_OI).double(), exact_NI, rtol=ULP, atol=1e-5)


def test_gradients_of_the_factors_keep_all_bits() -> None:
    torch.manual_seed(0)
    x_ND, weight_OD = torch.randn(40, 12), torch.randn(20, 12).bfloat16().float()
    factors = [torch.randn(3, 12).requires_grad_(), torch.randn(20, 3).requires_grad_()]
    dy_NO, found = torch.randn(40, 20), []
    for by in (TORCH, Bf16Products()):
        x = x_ND.clone().requires_grad_()
        y_NO = adapted_linear(x, weight_OD, None, *factors, 2.0, by)
        found.append([y_NO, *torch.autograd.grad(y_NO, [x, *factors], dy_NO)])
    for name, (exact, rounded) in zip(("y", "x", "a", "b"), zip(*found, strict=True), strict=True):
        least, most = (1e-4, 1e-2) if name in "xy" else (0, 1e-6)
        assert least <= off_by(rounded, exact) <= most, name


def test_an_update_smaller_than_a_bit_of_the_weight_is_not_lost() -> None:
    """Few inputs and many rows, for which float32 merges W + s · BA."""
    x_ND, weight_OD = torch.ones(60, 4), torch.full((4, 4), 1.0)
    y_NO = adapted_linear(x_ND, weight_OD, None, torch.ones(1, 4), torch.full((4, 1), 1e-4), 1.0, Bf16Products())
    assert torch.allclose(y_NO, torch.full((60, 4), 4 + 4e-4), rtol=1e-6)


def test_the_processor_is_not_looked_at_in_each_pass() -> None:
    """The kernel takes milliseconds to say what hundreds of cores are."""
    engine = engine_in(ProductDtype.BF16)
    with patch.object(products, "multiplies_bf16") as looks:
        learnt(engine)
    looks.assert_not_called()


def test_the_canary_is_computed_in_float32() -> None:
    """vLLM's logprobs are held against it to 1e-3 nats."""
    engine, exact = engine_in(ProductDtype.BF16), engine_in(ProductDtype.FLOAT32)
    of_bf16, of_float32 = (compute_canary(each._base, session(each)) for each in (engine, exact))
    assert of_bf16 == of_float32
    assert engine.plan(mixed_batch()).products == BF16_PRODUCTS


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3", "qwen3 with experts"])
def test_gradients_are_those_of_float32_but_for_rounding(architecture: str) -> None:
    engine, exact = engine_in(ProductDtype.BF16, architecture), engine_in(ProductDtype.FLOAT32, architecture)
    assert (engine._base.product_dtype, exact._base.product_dtype) == ("bf16", "float32")
    assert 1e-5 < off_by(learnt(engine), learnt(exact)) < 0.1


def test_the_base_alone_multiplies_as_it_does_under_an_adapter() -> None:
    engine = engine_in(ProductDtype.BF16)
    engine.open(MODEL, LORA, None, None)  # whose update is zero
    base = engine._base
    base.bind(session(engine))
    pack = base.pack(to_datums(mixed_batch()))
    with torch.no_grad():
        assert torch.equal(base.base_logprobs(pack), base.logprobs(pack)[0])


def test_the_plan_says_so_and_trainers_with_the_other_setting_follow_it() -> None:
    engine, exact = engine_in(ProductDtype.BF16), engine_in(ProductDtype.FLOAT32)
    plan, exact_plan = (decode_plan(encode_plan(each.plan(mixed_batch()))) for each in (engine, exact))
    assert plan.products == BF16_PRODUCTS != exact_plan.products
    assert torch.equal(learnt(exact, plan), learnt(engine))
    assert torch.equal(learnt(engine, exact_plan), learnt(exact))
    assert not torch.equal(learnt(engine), learnt(exact))


def test_a_plan_of_an_earlier_version_keeps_its_bits() -> None:
    engine, exact = engine_in(ProductDtype.BF16), engine_in(ProductDtype.FLOAT32)
    plan = replace(engine.plan(mixed_batch()), products=TORCH_PRODUCTS)
    assert torch.equal(learnt(engine, plan), learnt(exact, plan))


def test_a_processor_without_the_instructions_replays_by_float32_products_of_rounded_factors() -> None:
    engine, other = engine_in(ProductDtype.BF16), engine_in(ProductDtype.FLOAT32)
    plan, gradient = engine.plan(mixed_batch()), learnt(engine)
    with patch.object(products, "multiplies_bf16", return_value=False), capture_logs() as logs:
        emulated = learnt(other, plan)
    assert [entry["event"] for entry in logs if "products" in entry["event"]] == ["products_of_plan_are_emulated"]
    assert off_by(emulated, gradient) < 0.2 * off_by(learnt(other), gradient)


def chosen(base_model) -> tuple[ProductDtype | None, list[str]]:
    with capture_logs() as logs:
        base = BaseModel(base_model, products=ProductDtype.BF16)
    return base.product_dtype, [str(entry["reason"]) for entry in logs if entry["event"] == "no_bf16_products"]


def test_a_base_of_float32_is_multiplied_in_float32() -> None:
    assert chosen(tiny_model()) == (ProductDtype.FLOAT32, ["the base is not stored in bfloat16"])


def test_layers_that_would_take_longer_are_multiplied_in_float32() -> None:
    with patch.object(product_dtype, "LEAST_WEIGHTS", 24 * 40 + 1):
        assert chosen(rounded_model()) == (ProductDtype.FLOAT32, [product_dtype.TOO_SMALL])
    with patch.object(product_dtype, "LEAST_WEIGHTS", 24 * 40):
        assert chosen(rounded_model()) == (ProductDtype.BF16, [])


def test_a_processor_without_the_instructions_multiplies_in_float32() -> None:
    with patch.object(bf16_check, "multiplies_bf16", return_value=False):
        assert chosen(rounded_model()) == (ProductDtype.FLOAT32, ["the processor has neither AVX512-BF16 nor AMX"])


def test_products_that_are_off_by_more_than_rounding_are_not_used() -> None:
    rounded = Bf16Products._rounded
    with patch.object(Bf16Products, "_rounded", lambda *args: 1.3 * rounded(*args)):
        found, (reason,) = chosen(rounded_model())
    assert (found, "nats a token" in reason) == (ProductDtype.FLOAT32, True)


def test_gradients_that_are_off_by_more_than_rounding_are_not_used() -> None:
    through = Bf16Products.through
    with patch.object(Bf16Products, "through", lambda *args: 1.3 * through(*args)):
        found, (reason,) = chosen(rounded_model())
    assert (found, "gradients differ" in reason) == (ProductDtype.FLOAT32, True)


def test_a_loaded_base_multiplies_in_what_it_was_loaded_for(tmp_path: Path) -> None:
    rounded_model().to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_base_model(str(tmp_path)).product_dtype is ProductDtype.FLOAT32
    base = load_base_model(str(tmp_path), products=ProductDtype.BF16)
    assert (base.product_dtype, base.served_dtype) == (ProductDtype.BF16, torch.float32)
    engine = opened(BatchEngine(base, EngineSettings(threads=1)))
    scored = [row.logprobs for row in engine.forward(MODEL, mixed_batch())]
    exact = [row.logprobs for row in engine_in(ProductDtype.FLOAT32).forward(MODEL, mixed_batch())]
    assert 1e-5 < np.abs(np.concatenate(scored) - np.concatenate(exact)).mean() < 0.1
