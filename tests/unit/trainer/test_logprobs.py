from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any
from unittest.mock import patch

import pytest
import torch

from trainer.engine import logprobs, unembedding
from trainer.engine.logprobs import HeadUpdate, _Block, action_logprobs, all_logits
from trainer.engine.unembedding import WholeUnembedding

VOCAB = 7
ROWS, TARGETS = torch.tensor([4, 0, 2, 4]), torch.tensor([1, 6, 0, 5])


def hidden_and_weight(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 3, generator=generator, dtype=torch.float64).to(dtype)
    return hidden.requires_grad_(), torch.randn(VOCAB, 3, generator=generator, dtype=torch.float64)


@pytest.fixture(params=[3, 6, 7], ids=lambda rows: f"blocks of {rows}")
def block_rows(request: pytest.FixtureRequest) -> Iterator[int]:
    """Of the head's blocks, of which a vocabulary of 7 has several, one and a last row, or just one."""
    with patch.object(unembedding, "BLOCK_ROWS", request.param):
        yield request.param


def head(
    hidden_TD: torch.Tensor, rows_P: torch.Tensor, targets_P: torch.Tensor, weight_VD: torch.Tensor, **choices: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return action_logprobs(hidden_TD, rows_P, targets_P, WholeUnembedding(weight_VD), **choices)


@pytest.mark.usefixtures("block_rows")
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_one_pass_gradient_is_the_numerical_one(chunk: int) -> None:
    hidden, weight = hidden_and_weight()
    with patch.dict(logprobs._CHUNK_ELEMENTS, cpu=chunk * min(7, unembedding.BLOCK_ROWS)):
        assert torch.autograd.gradcheck(lambda h: head(h, ROWS, TARGETS, weight)[0], (hidden,))


@pytest.mark.usefixtures("block_rows")
def test_logprobs_and_entropies_are_those_of_the_full_distribution() -> None:
    hidden, weight = hidden_and_weight()
    full = torch.log_softmax(hidden[ROWS] @ weight.T, dim=-1)
    found, entropies = head(hidden, ROWS, TARGETS, weight)
    torch.testing.assert_close(found, full[torch.arange(4), TARGETS])
    torch.testing.assert_close(entropies, -(full.exp() * full).sum(-1))
    assert not entropies.requires_grad


@pytest.mark.usefixtures("block_rows")
def test_nothing_of_vocabulary_size_is_kept_for_the_backward() -> None:
    hidden, weight = hidden_and_weight()
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        head(hidden, ROWS, TARGETS, weight)
    assert torch.Size([4, 3]) in kept
    assert not any(7 in shape for shape in kept)


def test_a_low_precision_model_gets_a_float32_head_and_its_own_gradient_dtype() -> None:
    hidden, weight = hidden_and_weight(torch.bfloat16)
    weight = weight.bfloat16()
    found, _ = head(hidden, ROWS, TARGETS, weight)
    found.sum().backward()
    assert (found.dtype, hidden.grad is not None and hidden.grad.dtype) == (torch.float32, torch.bfloat16)
    exact = torch.log_softmax(hidden.detach().double()[ROWS] @ weight.double().T, dim=-1)[torch.arange(4), TARGETS]
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("block_rows")
def test_a_trained_unembedding_gets_the_numerical_gradient_too() -> None:
    hidden, weight = hidden_and_weight()
    with patch.dict(logprobs._CHUNK_ELEMENTS, cpu=14):
        torch.autograd.gradcheck(
            lambda h, w: head(h, ROWS, TARGETS, w)[0], (hidden, weight.requires_grad_()), atol=1e-8
        )


def factors() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((2, 3), (7, 2)))
    return a.requires_grad_(), b.requires_grad_()


@pytest.mark.usefixtures("block_rows")
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_lora_on_the_unembedding_gets_the_numerical_gradient(chunk: int, share: bool) -> None:
    hidden, weight = hidden_and_weight()
    rows, targets = torch.tensor([0, 0, 0, 2, 4, 4]), torch.tensor([1, 6, 6, 0, 5, 2])
    with patch.dict(logprobs._CHUNK_ELEMENTS, cpu=chunk * min(7, unembedding.BLOCK_ROWS)):
        assert torch.autograd.gradcheck(
            lambda h, a, b: head(h, rows, targets, weight, share_rows=share, update=HeadUpdate(a, b, 1.5))[0],
            (hidden, *factors()),
        )


@pytest.mark.usefixtures("block_rows")
def test_lora_on_the_unembedding_is_that_of_the_merged_one() -> None:
    (hidden, weight), (a, b) = hidden_and_weight(), factors()
    update = HeadUpdate(a, b, 1.5)
    found = head(hidden, ROWS, TARGETS, weight, update=update)
    merged = head(hidden, ROWS, TARGETS, (weight + 1.5 * b @ a).detach())
    for one, other in zip(found, merged, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        all_logits(hidden[ROWS], WholeUnembedding(weight), update).log_softmax(-1)[range(4), TARGETS], found[0]
    )


def test_of_lora_on_the_unembedding_nothing_of_vocabulary_size_is_kept() -> None:
    hidden, weight = hidden_and_weight()
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        head(hidden, ROWS, TARGETS, weight, update=HeadUpdate(*factors(), 1.0))
    assert kept
    assert not any(7 in shape for shape in kept)


def test_targets_of_one_position_share_its_row_of_logits() -> None:
    hidden, weight = hidden_and_weight()
    rows, targets = torch.tensor([1, 1, 1, 3]), torch.tensor([0, 4, 6, 2])
    rows_computed: list[int] = []

    def counted(block: _Block, hidden_CD: torch.Tensor) -> torch.Tensor:
        rows_computed.append(len(hidden_CD))
        return own_logits(block, hidden_CD)

    own_logits = _Block.logits
    with patch.object(_Block, "logits", counted):
        found, entropies = head(hidden, rows, targets, weight, share_rows=True)
        (slope,) = torch.autograd.grad(found @ torch.tensor([1.0, -2.0, 0.5, 3.0]).double(), hidden)
    assert rows_computed == [2, 2], "once forwards and once backwards"
    expected, expected_entropies = head(hidden, rows, targets, weight)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(entropies, expected_entropies)
    (expected_slope,) = torch.autograd.grad(expected @ torch.tensor([1.0, -2.0, 0.5, 3.0]).double(), hidden)
    torch.testing.assert_close(slope, expected_slope)


@pytest.mark.usefixtures("block_rows")
def test_both_heads_agree_to_the_bit_forwards() -> None:
    hidden, weight = hidden_and_weight()
    frozen = head(hidden, ROWS, TARGETS, weight)
    trained = head(hidden, ROWS, TARGETS, weight.clone().requires_grad_())
    assert all(torch.equal(one, other) for one, other in zip(frozen, trained, strict=True))


def test_a_vocabulary_of_one_block_has_the_bits_of_one_softmax() -> None:
    hidden, weight = (each.float().detach().requires_grad_() for each in hidden_and_weight())
    found, entropies = head(hidden, ROWS, TARGETS, weight.detach())
    (slopes,) = torch.autograd.grad(found, hidden, torch.ones(4))
    logits = hidden.detach()[ROWS] @ weight.detach().T
    logprobs_PV = logits - logits.logsumexp(dim=1, keepdim=True)
    p_PV = logprobs_PV.exp()
    assert torch.equal(found, logprobs_PV[range(4), TARGETS])
    assert torch.equal(entropies, -torch.einsum("pv,pv->p", p_PV, logprobs_PV))
    expected_PD = torch.addmm(weight.detach()[TARGETS], p_PV, weight.detach(), alpha=-1)
    assert torch.equal(slopes, torch.zeros(5, 3).index_add_(0, ROWS, expected_PD))


def learnt(weight: torch.Tensor, block_rows: int, *, share: bool, update: bool) -> list[torch.Tensor]:
    """Logprobs, entropies and every gradient, of a vocabulary of 40 whose targets lie at the edges of its blocks."""
    generator = torch.Generator().manual_seed(2)
    hidden, a, b = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((6, 3), (2, 3), (len(weight), 2))
    )
    rows, targets = torch.tensor([0, 0, 1, 2, 3, 3, 4, 5]), torch.tensor([0, 12, 13, 25, 26, 38, 39, 7])
    factors = (a, b) if update else ()
    with patch.object(unembedding, "BLOCK_ROWS", block_rows), patch.dict(logprobs._CHUNK_ELEMENTS, cpu=100):
        found = head(hidden, rows, targets, weight, share_rows=share, update=HeadUpdate(a, b, 1.5) if update else None)
        slopes = torch.autograd.grad(found[0] @ torch.linspace(-1, 2, 8).double(), (hidden, *factors))
    return [*found, *slopes]


@pytest.mark.parametrize("block_rows", [13, 39, 41])
@pytest.mark.parametrize(("share", "update"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_blocks_change_nothing_but_rounding(block_rows: int, share: bool, update: bool, scale: float) -> None:
    weight = scale * torch.randn(40, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    whole = learnt(weight, 40, share=share, update=update)
    for one, other in zip(learnt(weight, block_rows, share=share, update=update), whole, strict=True):
        assert other.isfinite().all()
        assert (one - other).norm() <= 1e-12 * max(1.0, other.norm().item())


@pytest.mark.parametrize("backwards", [False, True])
def test_logits_that_drown_all_blocks_before_or_after_them_are_no_nan(backwards: bool) -> None:
    """Of float32, whose exponential ends at 88, and which has steps of 1e-3 at 1e4."""
    weight = torch.tensor([[1e4], [-1e4], [0.0], [9e3], [-9e3], [1e4]])
    weight = weight.flip(0) if backwards else weight
    hidden = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    full = torch.log_softmax(hidden.detach() @ weight.T, dim=-1)
    for block_rows, target in product((1, 2, 4), range(6)):
        with patch.object(unembedding, "BLOCK_ROWS", block_rows):
            found, entropies = head(hidden, torch.tensor([0, 1]), torch.tensor([target, target]), weight)
        torch.testing.assert_close(found, full[:, target], atol=1e-3, rtol=0)
        torch.testing.assert_close(entropies, torch.tensor([math.log(2), 0.0]), atol=1e-3, rtol=0)
        (slopes,) = torch.autograd.grad(found.sum(), hidden)
        torch.testing.assert_close(slopes, weight[target] - full.exp() @ weight, atol=1e4 * 1e-3, rtol=0)
