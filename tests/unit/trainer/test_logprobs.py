from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

from trainer.engine import logprobs
from trainer.engine.logprobs import HeadUpdate, action_logprobs, all_logprobs

ROWS, TARGETS = torch.tensor([4, 0, 2, 4]), torch.tensor([1, 6, 0, 5])


def hidden_and_weight(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 3, generator=generator, dtype=torch.float64).to(dtype)
    return hidden.requires_grad_(), torch.randn(7, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_one_pass_gradient_is_the_numerical_one(chunk: int) -> None:
    hidden, weight = hidden_and_weight()
    with patch.dict(logprobs._CHUNK_ELEMENTS, cpu=chunk * 7):
        assert torch.autograd.gradcheck(lambda h: action_logprobs(h, ROWS, TARGETS, weight)[0], (hidden,))


def test_logprobs_and_entropies_are_those_of_the_full_distribution() -> None:
    hidden, weight = hidden_and_weight()
    full = torch.log_softmax(hidden[ROWS] @ weight.T, dim=-1)
    found, entropies = action_logprobs(hidden, ROWS, TARGETS, weight)
    torch.testing.assert_close(found, full[torch.arange(4), TARGETS])
    torch.testing.assert_close(entropies, -(full.exp() * full).sum(-1))
    assert not entropies.requires_grad


def test_nothing_of_vocabulary_size_is_kept_for_the_backward() -> None:
    hidden, weight = hidden_and_weight()
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        action_logprobs(hidden, ROWS, TARGETS, weight)
    assert torch.Size([4, 3]) in kept
    assert not any(7 in shape for shape in kept)


def test_a_low_precision_model_gets_a_float32_head_and_its_own_gradient_dtype() -> None:
    hidden, weight = hidden_and_weight(torch.bfloat16)
    found, _ = action_logprobs(hidden, ROWS, TARGETS, weight.float())
    found.sum().backward()
    assert (found.dtype, hidden.grad is not None and hidden.grad.dtype) == (torch.float32, torch.bfloat16)
    exact = torch.log_softmax(hidden.detach().double()[ROWS] @ weight.T, dim=-1)[torch.arange(4), TARGETS]
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_a_trained_unembedding_gets_the_numerical_gradient_too() -> None:
    hidden, weight = hidden_and_weight()
    with patch.dict(logprobs._CHUNK_ELEMENTS, cpu=14):
        torch.autograd.gradcheck(
            lambda h, w: action_logprobs(h, ROWS, TARGETS, w)[0], (hidden, weight.requires_grad_()), atol=1e-8
        )


def factors() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((2, 3), (7, 2)))
    return a.requires_grad_(), b.requires_grad_()


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_lora_on_the_unembedding_gets_the_numerical_gradient(chunk: int, share: bool) -> None:
    hidden, weight = hidden_and_weight()
    rows, targets = torch.tensor([0, 0, 0, 2, 4, 4]), torch.tensor([1, 6, 6, 0, 5, 2])
    with patch.dict(logprobs._CHUNK_ELEMENTS, cpu=chunk * 7):
        assert torch.autograd.gradcheck(
            lambda h, a, b: action_logprobs(h, rows, targets, weight, share_rows=share, update=HeadUpdate(a, b, 1.5))[
                0
            ],
            (hidden, *factors()),
        )


def test_lora_on_the_unembedding_is_that_of_the_merged_one() -> None:
    (hidden, weight), (a, b) = hidden_and_weight(), factors()
    update = HeadUpdate(a, b, 1.5)
    found = action_logprobs(hidden, ROWS, TARGETS, weight, update=update)
    merged = action_logprobs(hidden, ROWS, TARGETS, (weight + 1.5 * b @ a).detach())
    for one, other in zip(found, merged, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(all_logprobs(hidden[ROWS], weight, update)[range(4), TARGETS], found[0])


def test_of_lora_on_the_unembedding_nothing_of_vocabulary_size_is_kept() -> None:
    hidden, weight = hidden_and_weight()
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        action_logprobs(hidden, ROWS, TARGETS, weight, update=HeadUpdate(*factors(), 1.0))
    assert kept
    assert not any(7 in shape for shape in kept)


def test_targets_of_one_position_share_its_row_of_logits() -> None:
    hidden, weight = hidden_and_weight()
    rows, targets = torch.tensor([1, 1, 1, 3]), torch.tensor([0, 4, 6, 2])
    rows_computed: list[int] = []

    def counted(hidden_CD: torch.Tensor, *others: object) -> torch.Tensor:
        rows_computed.append(len(hidden_CD))
        return all_logprobs(hidden_CD, *others)

    with patch.object(logprobs, "all_logprobs", counted):
        found, entropies = action_logprobs(hidden, rows, targets, weight, share_rows=True)
        (slope,) = torch.autograd.grad(found @ torch.tensor([1.0, -2.0, 0.5, 3.0]).double(), hidden)
    assert rows_computed == [2, 2], "once forwards and once backwards"
    expected, expected_entropies = action_logprobs(hidden, rows, targets, weight)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(entropies, expected_entropies)
    (expected_slope,) = torch.autograd.grad(expected @ torch.tensor([1.0, -2.0, 0.5, 3.0]).double(), hidden)
    torch.testing.assert_close(slope, expected_slope)


def test_both_heads_agree_to_the_bit_forwards() -> None:
    hidden, weight = hidden_and_weight()
    frozen = action_logprobs(hidden, ROWS, TARGETS, weight)
    trained = action_logprobs(hidden, ROWS, TARGETS, weight.clone().requires_grad_())
    assert all(torch.equal(one, other) for one, other in zip(frozen, trained, strict=True))
