"""A base that is stored in bfloat16 is multiplied in it where that was asked for and agrees with float32, and in
float32 where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from structlog.testing import capture_logs
from transformers import AutoModelForCausalLM

from sampler.backends.local import bf16_products, packed_linears
from sampler.backends.local.bf16_products import choose_products
from sampler.backends.local.packed_linears import pack_linears
from tests.ports.test_sampler_weights import expected_logprobs, prompt_of
from tests.vision.families import FAMILIES as VISION
from tests.vision.families import make_vision_model
from wire.process import product_dtype
from wire.process.product_dtype import ProductDtype

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor and torch compute no bfloat16 products"
)


@pytest.fixture(scope="module")
def in_bf16(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base, its weights rounded to bfloat16 and stored in it."""
    folder = tmp_path_factory.mktemp("bf16")
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(folder)
    for file in base.iterdir():
        if file.suffix != ".safetensors" and not (folder / file.name).exists():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(autouse=True)
def processor():
    """One that has the instructions, for which no layer is too small."""
    with (
        patch.object(bf16_products, "multiplies_bf16", return_value=True) as multiplies,
        patch.object(product_dtype, "LEAST_WEIGHTS", 0),
    ):
        yield multiplies


def loaded(folder: Path, **config: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **config).eval().requires_grad_(False)


def chosen(model: Any, logits: Any = None) -> tuple[ProductDtype, list[str]]:
    """What the layers multiply in, and reasons why that is not bf16."""
    with capture_logs() as logs:
        found = choose_products(model, ProductDtype.BF16, logits or (lambda ids: model(torch.tensor([ids])).logits[0]))
    return found, [str(entry["reason"]) for entry in logs]


async def test_answers_differ_from_float32_by_rounding_alone(open_backend, ask_on, in_bf16: Path):
    backend, exact = open_backend(in_bf16, products=ProductDtype.BF16), loaded(in_bf16)
    assert backend.details.products == "bf16"
    answer = await ask_on(backend, prompt_of(0), max_tokens=24, seed=1, ignore_eos=True)
    expected = torch.tensor(expected_logprobs(exact, prompt_of(0), answer.ids, {}))
    differences = (torch.tensor(answer.logprobs) - expected).abs()
    assert 1e-5 < float(differences.mean()) < 0.03


async def test_float32_is_what_nobody_asked_about(open_backend, in_bf16: Path, base: Path):
    assert open_backend(in_bf16).details.products == "float32"
    assert open_backend(base, products=ProductDtype.BF16).details.products == "float32"


def test_only_layers_lose_bits_and_all_weights_are_packed(in_bf16: Path):
    model = loaded(in_bf16)
    hidden, head = torch.randn(3, model.config.hidden_size), model.get_output_embeddings()
    exact = head(hidden)
    assert chosen(model) == (ProductDtype.BF16, [])
    pack_linears(model)
    assert torch.allclose(head(hidden), exact, rtol=1e-5, atol=1e-5)
    assert all(module.weight.numel() == 0 for module in model.modules() if isinstance(module, torch.nn.Linear))


def test_a_bias_is_added_in_float32():
    linear = torch.nn.Linear(8, 8).requires_grad_(False)
    linear.bias.copy_(torch.linspace(100, 101, 8))
    packed_linears.multiply_in_bf16([linear])
    assert torch.equal(linear(torch.zeros(2, 8))[1], linear.bias)


def test_a_base_of_float32_keeps_its_bits(base: Path):
    model = loaded(base)
    before = model(torch.arange(9)[None]).logits
    assert chosen(model) == (ProductDtype.FLOAT32, ["the base is not stored in bfloat16"])
    assert torch.equal(model(torch.arange(9)[None]).logits, before)


def test_layers_that_would_take_longer_are_multiplied_in_float32(in_bf16: Path):
    with patch.object(product_dtype, "LEAST_WEIGHTS", 1 << 16):
        assert chosen(loaded(in_bf16)) == (ProductDtype.FLOAT32, [product_dtype.TOO_SMALL])


def test_a_processor_without_the_instructions_multiplies_in_float32(in_bf16: Path, processor):
    processor.return_value = False
    assert chosen(loaded(in_bf16)) == (ProductDtype.FLOAT32, ["the processor has neither AVX512-BF16 nor AMX"])


def test_products_that_are_off_by_more_than_rounding_are_not_used(in_bf16: Path):
    model = loaded(in_bf16)
    before = model(torch.arange(9)[None]).logits
    wrong = packed_linears._product_in_bf16
    with patch.object(packed_linears, "_product_in_bf16", lambda *args: 1.5 * wrong(*args)):
        found, (reason,) = chosen(model)
    assert found is ProductDtype.FLOAT32
    assert "nats a token" in reason
    assert torch.equal(model(torch.arange(9)[None]).logits, before)


def test_products_that_are_no_numbers_are_not_used(in_bf16: Path):
    right = packed_linears._product_in_bf16
    with patch.object(packed_linears, "_product_in_bf16", lambda *args: torch.nan * right(*args)):
        assert chosen(loaded(in_bf16))[0] is ProductDtype.FLOAT32


def test_a_kernel_that_is_not_there_is_not_used(in_bf16: Path):
    def lacks(*_: Any) -> torch.Tensor:
        raise RuntimeError("could not create a primitive descriptor")

    with patch.object(packed_linears, "_product_in_bf16", lacks):
        assert chosen(loaded(in_bf16)) == (ProductDtype.FLOAT32, ["could not create a primitive descriptor"])


@pytest.mark.parametrize("family", VISION)
def test_a_tower_loses_no_bits(family: str):
    model: Any = make_vision_model(VISION[family]).bfloat16().float().requires_grad_(False)
    assert chosen(model) == (ProductDtype.BF16, [])
    tower = {id(module) for module in model.modules()} - {id(module) for module in model.get_decoder().modules()}
    replaced = [id(module) for module in model.modules() if "forward" in vars(module)]
    assert replaced
    assert not tower.intersection(replaced)
