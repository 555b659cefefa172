"""Large float32 products go through oneDNN, as exact as torch's; an earlier version's plan has torch's bits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar
from unittest.mock import patch

import pytest
import torch
from structlog.testing import capture_logs
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from tests.unit.trainer.naive import worst_relative_error
from tests.unit.trainer.tiny import LORA, MODEL, gradients, mixed_batch, opened, session, tiny_engine, tiny_model
from trainer.engine import products
from trainer.engine.attention import UnsupportedArchitecture
from trainer.engine.base_model import BaseModel
from trainer.engine.fused_lora import adapted_linear, is_merged
from trainer.engine.logprobs import HeadUpdate, action_logprobs, all_logits
from trainer.engine.products import TORCH, OneDnnProducts, Products, choose_products
from trainer.engine.unembedding import WholeUnembedding
from wire.engine import LossChoice
from wire.plans import FUSED_LORA, ONEDNN_PRODUCTS, PEFT_LORA, TORCH_PRODUCTS
from wire.process.onednn import CACHES

T = TypeVar("T")
CPU = torch.device("cpu")
LOSS = LossChoice("importance_sampling")
ONEDNN = OneDnnProducts()
ROWS, INPUTS, OUTPUTS, RANK = 96, 200, 120, 8
LARGE = products._WORTH_A_KERNEL // (INPUTS * OUTPUTS) + 1
"""Rows of which a product with a weight of this size is oneDNN's."""

ATTENTION = {(32, 24), (16, 24), (24, 32)}
"""Shapes of the tiny model's projections of queries, of keys, and out of attention."""
UP = (40, 24)
"""Of the projections into the MLP."""

runs = pytest.mark.skipif(not OneDnnProducts.run_on(CPU), reason="this torch has no oneDNN")


@pytest.fixture
def all_large() -> Iterator[None]:
    """Products of any size are oneDNN's."""
    with patch.object(products, "_WORTH_A_KERNEL", 0):
        yield


class Multiplications(TorchDispatchMode):
    """Counts calls of oneDNN's operator and of torch's, forwards and backwards: on some processors both libraries give
    the same bits, so the bits do not tell which of them multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.by_onednn = self.by_torch = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.by_onednn += func.overloadpacket is torch.ops.mkldnn._linear_pointwise
        self.by_torch += func.overloadpacket in TORCH_OPERATORS
        return func(*args, **(kwargs or {}))


TORCH_OPERATORS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_, torch.ops.aten.linear}


def counted(use: Products, compute: Callable[[], T], *, by_torch_always: int = 0) -> T:
    """What is computed, of which the library of `use` multiplied all but what torch always does."""
    with Multiplications() as found:
        computed = compute()
    if isinstance(use, OneDnnProducts):
        assert found.by_onednn > 0
        assert found.by_torch == by_torch_always
    else:
        assert found.by_onednn == 0 < found.by_torch
    return computed


WAYS: dict[str, Callable[..., torch.Tensor]] = {
    "linear": lambda use, x, w, b, _: use.linear(x, w, b[0]),
    "multiply": lambda use, x, w, _b, _: use.multiply(x, w.T),
    "of transposed": lambda use, x, w, _b, to: use.multiply(to.T, x),
    "add": lambda use, x, w, _b, to: use.add_(to.clone(), x, w.T, times=-2),
}


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found.double() - exact.double()).norm() / exact.double().norm()).item()


def matrices(*shapes: tuple[int, int], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@runs
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_product_is_as_exact_as_torchs(way: Callable[..., torch.Tensor]) -> None:
    tensors = matrices((LARGE, INPUTS), (OUTPUTS, INPUTS), (1, OUTPUTS), (LARGE, OUTPUTS))
    exact = way(TORCH, *(each.double() for each in tensors))
    by_torch, by_onednn = (counted(use, lambda use=use: way(use, *tensors)) for use in (TORCH, ONEDNN))
    assert error(by_onednn, exact) <= 4 * error(by_torch, exact)


@runs
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_product_that_falls_back_to_torch_is_noticed(way: Callable[..., torch.Tensor]) -> None:
    """Or the tests here could not fail."""
    tensors = matrices((LARGE, INPUTS), (OUTPUTS, INPUTS), (1, OUTPUTS), (LARGE, OUTPUTS))
    with patch.object(products, "_by_onednn", functional.linear), pytest.raises(AssertionError):
        counted(ONEDNN, lambda: way(ONEDNN, *tensors))


@runs
def test_what_is_multiplied_may_lie_in_memory_in_any_way() -> None:
    one, other, bias = matrices((LARGE, INPUTS), (OUTPUTS, INPUTS), (1, OUTPUTS))
    expected = ONEDNN.linear(one, other, bias[0])

    def apart(matrix: torch.Tensor) -> torch.Tensor:
        return torch.stack([matrix, torch.full_like(matrix, 7.0)], -1)[..., 0]

    for x, weight, shift in ((apart(one), other, bias[0]), (one, apart(other), bias[0]), (one, other, apart(bias)[0])):
        assert error(ONEDNN.linear(x, weight, shift), expected) < 1e-6
    assert error(ONEDNN.linear(one, other, bias[0, :1].expand(OUTPUTS)), one @ other.T + bias[0, :1]) < 1e-6


@runs
@pytest.mark.parametrize(("rows", "dtype"), [(8, torch.float32), (LARGE, torch.float64), (LARGE, torch.bfloat16)])
def test_small_products_and_other_dtypes_are_torchs_to_the_bit(rows: int, dtype: torch.dtype) -> None:
    one, other, to = matrices((rows, INPUTS), (OUTPUTS, INPUTS), (rows, OUTPUTS), dtype=dtype)
    assert not ONEDNN.differ_for(rows, other)
    assert torch.equal(ONEDNN.linear(one, other), TORCH.linear(one, other))
    assert torch.equal(ONEDNN.multiply(to, other), TORCH.multiply(to, other))
    assert torch.equal(ONEDNN.add_(to.clone(), one, other.T), TORCH.add_(to.clone(), one, other.T))


@runs
@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("rows", [4 * ROWS, ROWS], ids=["merged", "added"])
def test_an_adapted_layer_is_as_exact_as_torchs(rows: int, bias: bool) -> None:
    tensors = matrices((rows, INPUTS), (OUTPUTS, INPUTS), (1, OUTPUTS), (RANK, INPUTS), (OUTPUTS, RANK))

    def computed(use: Products, dtype: torch.dtype) -> list[torch.Tensor]:
        x, weight, shift, a, b = (each.to(dtype) for each in tensors)
        assert is_merged(rows, weight) is (rows > ROWS)
        learning = [each.clone().requires_grad_() for each in (x, a, b)]
        y = adapted_linear(learning[0], weight, shift[0] if bias else None, *learning[1:], 2.0, use)
        return [y.detach(), *torch.autograd.grad((y * y.detach().sin()).sum(), learning)]

    exact = computed(TORCH, torch.float64)
    by_torch_always = 2 if is_merged(rows, tensors[1]) else 0  # W' is made forwards and backwards
    by_torch, by_onednn = (
        counted(use, lambda use=use: computed(use, torch.float32), by_torch_always=by_torch_always)
        for use in (TORCH, ONEDNN)
    )
    for ours, theirs, expected in zip(by_onednn, by_torch, exact, strict=True):
        assert error(ours, expected) <= 4 * error(theirs, expected)


@runs
@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("choice", ["frozen", "shared rows", "low-rank update"])
def test_the_head_is_as_exact_as_torchs(choice: str) -> None:
    hidden, weight, a, b = matrices((ROWS, INPUTS), (OUTPUTS, INPUTS), (RANK, INPUTS), (OUTPUTS, RANK))
    targets = torch.arange(ROWS) % OUTPUTS

    def computed(use: Products, dtype: torch.dtype) -> list[torch.Tensor]:
        factors = [each.to(dtype).requires_grad_() for each in (a, b)]
        update = HeadUpdate(factors[0], factors[1], 0.1) if choice == "low-rank update" else None
        h = (hidden.to(dtype) / 10).requires_grad_()
        of = WholeUnembedding(weight.to(dtype), 50)
        found, entropies = action_logprobs(
            h, torch.arange(ROWS), targets, of, share_rows=choice == "shared rows", update=update, products=use
        )
        slopes = torch.autograd.grad((found * found.detach().sin()).sum(), [h, *(factors if update else [])])
        return [found.detach(), entropies, all_logits(h, of, update, use), *slopes]

    exact = computed(TORCH, torch.float64)
    by_torch_always = 2 if choice == "low-rank update" else 0  # the update, where `all_logits` adds it
    by_torch, by_onednn = (
        counted(use, lambda use=use: computed(use, torch.float32), by_torch_always=by_torch_always)
        for use in (TORCH, ONEDNN)
    )
    for ours, theirs, expected in zip(by_onednn, by_torch, exact, strict=True):
        assert error(ours, expected) <= 4 * error(theirs, expected)


@runs
@pytest.mark.usefixtures("all_large")
def test_a_pass_follows_the_products_of_its_plan() -> None:
    engine = opened(tiny_engine())
    plan = replace(engine.plan(mixed_batch()), products=ONEDNN_PRODUCTS)
    found, multiplied = {}, {}
    for name in (ONEDNN_PRODUCTS, TORCH_PRODUCTS):
        with Multiplications() as multiplied[name]:
            engine.forward_backward(MODEL, mixed_batch(), LOSS, replace(plan, products=name))
        found[name] = gradients(engine)
        session(engine).gradient.zero_()
    assert multiplied[TORCH_PRODUCTS].by_onednn == 0 < multiplied[ONEDNN_PRODUCTS].by_onednn
    assert worst_relative_error(found[ONEDNN_PRODUCTS], found[TORCH_PRODUCTS]) <= 1e-5
    with patch.object(OneDnnProducts, "are_best_on", return_value=False):
        earlier = opened(tiny_engine())
    assert earlier.plan(mixed_batch()).products == TORCH_PRODUCTS
    with Multiplications() as own:
        earlier.forward_backward(MODEL, mixed_batch(), LOSS)
    assert own.by_onednn == 0
    assert all(torch.equal(its, found[TORCH_PRODUCTS][name]) for name, its in gradients(earlier).items())
    with Multiplications() as planned:
        earlier.forward_backward(MODEL, mixed_batch(), LOSS, plan)
    assert planned.by_onednn > 0


@runs
@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("lora", [FUSED_LORA, PEFT_LORA])
def test_layers_without_an_adapter_have_these_products_too(lora: str) -> None:
    engine = opened(tiny_engine(), lora=replace(LORA, attn=False))
    plan, found = replace(engine.plan(mixed_batch()), lora=lora), {}
    for name in (ONEDNN_PRODUCTS, TORCH_PRODUCTS):
        with patch.object(products, "_by_onednn", wraps=products._by_onednn) as product:
            engine.forward_backward(MODEL, mixed_batch(), LOSS, replace(plan, products=name))
        found[name] = gradients(engine)
        session(engine).gradient.zero_()
        factors = {tuple(call.args[1].shape) for call in product.call_args_list}
        assert factors.issuperset(ATTENTION) is (name == ONEDNN_PRODUCTS)
    assert worst_relative_error(found[ONEDNN_PRODUCTS], found[TORCH_PRODUCTS]) <= 1e-5


@runs
@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("is_forward", [True, False], ids=["forwards", "backwards"])
def test_a_machine_that_multiplies_layers_wrongly_is_noticed_at_load(is_forward: bool) -> None:
    right = products._by_onednn

    def wrong(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        is_wrong = weight.shape == (UP if is_forward else UP[::-1]) and weight.is_contiguous() is is_forward
        return right(x, weight, bias) * (1.5 if is_wrong else 1.0)

    BaseModel(tiny_model())
    with patch.object(products, "_by_onednn", wrong), pytest.raises(UnsupportedArchitecture):
        BaseModel(tiny_model())


@pytest.mark.parametrize(
    ("of_plan", "event"),
    [
        ({"lora": "of a later version"}, "lora_of_plan_does_not_run"),
        ({"products": "of a later version"}, "products_of_plan_do_not_run"),
        ({"products": ONEDNN_PRODUCTS}, "products_of_plan_do_not_run"),
        ({"kernel": "of a later version"}, "kernel_of_plan_does_not_run"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value.values()),
)
def test_what_of_a_plan_does_not_run_here_gives_way_with_a_line_in_the_log(of_plan: dict[str, str], event: str) -> None:
    with patch.object(OneDnnProducts, "run_on", return_value=False):
        engine = opened(tiny_engine())
        plan = engine.plan(mixed_batch())
        assert (plan.lora, plan.products) == (FUSED_LORA, TORCH_PRODUCTS)
        with capture_logs() as logs:
            engine.forward_backward(MODEL, mixed_batch(), LOSS, plan)
        assert logs == []
        own = session(engine).gradient.clone()
        session(engine).gradient.zero_()
        with capture_logs() as logs:
            engine.forward_backward(MODEL, mixed_batch(), LOSS, replace(plan, **of_plan))
    (field,) = of_plan
    assert [(line["event"], line["planned"], line["used"]) for line in logs] == [
        (event, of_plan[field], getattr(plan, field))
    ]
    assert torch.equal(session(engine).gradient, own)


def test_the_machine_alone_chooses() -> None:
    assert type(choose_products(torch.device("cuda"))) is Products
    with patch.object(torch.backends.cpu, "get_cpu_capability", return_value="AVX2"):
        assert type(choose_products(CPU)) is Products
    with patch.object(torch.backends.mkldnn, "is_available", return_value=False):
        assert type(choose_products(CPU)) is Products


_PASSES_OF_MANY_LENGTHS = """
import psutil, torch
from trainer.engine.products import NUM_KERNELS, OneDnnProducts
from wire.process.onednn import keep_few_kernels

keep_few_kernels(NUM_KERNELS)
torch.set_num_threads(1)
products, weight, x = OneDnnProducts(), torch.ones(256, 256), torch.ones(750, 256)
products.linear(x, weight)
before = psutil.Process().memory_info().rss
with torch.no_grad():
    for num_rows in range(500, 750):
        products.linear(x[:num_rows], weight)
print((psutil.Process().memory_info().rss - before) >> 20)
"""


@runs
def test_passes_of_many_lengths_leave_few_kernels_behind() -> None:
    """The limits are read once a process, so this is one of its own."""
    command = [sys.executable, "-c", _PASSES_OF_MANY_LENGTHS]
    own = {name: value for name, value in os.environ.items() if name not in CACHES}  # set by backends of other tests
    grown_mib = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=own).stdout)
    assert grown_mib < 120
