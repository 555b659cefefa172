"""On a CUDA device: FlexAttention against the definition in float64 on the CPU, and the engine against itself there.

Run by `make test-gpu` on a machine that has one; everything else of the kernels is tested on any.
"""

from __future__ import annotations

import pytest
import torch

from tests.unit.trainer.naive import worst_relative_error
from tests.unit.trainer.pictured import PICTURES, pictured_batch, sighted
from tests.unit.trainer.test_kernels import SCALE, a_pictured_tree, a_tree, by_definition, inputs
from tests.unit.trainer.tiny import (
    ARCHITECTURES,
    MODEL,
    BatchEngine,
    deep_batch,
    gradients,
    mixed_batch,
    opened,
    tiny_model,
)
from tests.vision.families import FAMILIES
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import EngineSettings
from trainer.engine.kernels import choose_kernel
from trainer.engine.kernels.flex import FlexKernel
from wire.engine import LossChoice

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-2), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("pictures", [False, True], ids=["text", "pictures"])
def test_flex_attention_and_its_gradients_are_those_of_the_definition(
    pictures: bool, window: int | None, dtype: torch.dtype, tolerance: float
) -> None:
    tree, sequences = a_pictured_tree(1, 40) if pictures else (a_tree(1, 40), [])
    exact, kernel = inputs(tree), FlexKernel()
    on_device = [tensor.detach().to(CUDA, dtype).requires_grad_() for tensor in exact]
    found = kernel.attend(*on_device, kernel.prepare(tree, window, CUDA, dtype), SCALE)
    expected = by_definition(tree, window, exact, sequences)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    slopes = torch.autograd.grad(found, on_device, upstream.to(CUDA, dtype))
    truths = torch.autograd.grad(expected, exact, upstream)
    for mine, truth in zip((found, *slopes), (expected, *truths), strict=True):
        assert (mine.cpu().double() - truth).norm() / truth.norm() < tolerance


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_engine_agrees_with_itself_on_the_cpu(architecture: str) -> None:
    assert isinstance(choose_kernel(CUDA), FlexKernel)
    engines = [
        opened(BatchEngine(BaseModel(tiny_model(architecture).to(device)), EngineSettings(threads=1)))
        for device in (torch.device("cpu"), CUDA)
    ]
    for engine in engines:
        for batch in (mixed_batch(), deep_batch()):
            engine.forward_backward(MODEL, batch, LossChoice("importance_sampling"))
    expected, found = (gradients(engine) for engine in engines)
    assert worst_relative_error({name: t.cpu() for name, t in found.items()}, expected) < 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_that_sees_agrees_with_itself_on_the_cpu(family: str) -> None:
    base, found = sighted(family), list[dict[str, torch.Tensor]]()
    for device in (torch.device("cpu"), CUDA):
        model = base.model().to(device)
        engine = BatchEngine(BaseModel(model, tower=base.tower(model)), EngineSettings(threads=1))
        assert engine.info.pictures is not None
        engine.pictures = PICTURES
        opened(engine).forward_backward(MODEL, pictured_batch(base), LossChoice("importance_sampling"))
        found.append({name: tensor.cpu() for name, tensor in gradients(engine).items()})
    assert worst_relative_error(found[1], found[0]) < 1e-2


def test_equal_passes_give_equal_bits() -> None:
    engine = opened(BatchEngine(BaseModel(tiny_model(dtype=torch.bfloat16).to(CUDA)), EngineSettings()))
    engine.forward_backward(MODEL, deep_batch(), LossChoice("ppo"))
    once = gradients(engine)
    engine._sessions.get(MODEL).gradient.zero_()
    engine.forward_backward(MODEL, deep_batch(), LossChoice("ppo"))
    assert all(torch.equal(found, once[name]) for name, found in gradients(engine).items())
