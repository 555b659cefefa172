"""Every kernel against the definition: softmax over the keys that a token sees, by autograd, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.engine.kernels import KERNELS, Kernel, cascade, choose_kernel
from trainer.engine.kernels.cascade import CascadeKernel
from trainer.engine.kernels.dense import DenseKernel
from trainer.engine.kernels.flex import FlexKernel
from trainer.engine.prefix_tree import PrefixTree, build_tree
from wire.extension import Media, TokenSequence, joined

HEADS, KEY_HEADS, WIDTH, SCALE = 4, 2, 6, 0.3


def a_tree(seed: int = 0, num_sequences: int = 7) -> PrefixTree:
    """Branches on branches, some of them long."""
    rng = np.random.default_rng(seed)
    sequences: list[np.ndarray] = []
    for _ in range(num_sequences):
        parent = sequences[rng.integers(len(sequences))] if sequences and rng.random() < 0.8 else np.empty(0, np.int32)
        kept = parent[: rng.integers(len(parent) + 1)]
        sequences.append(np.concatenate([kept, rng.integers(0, 50, rng.integers(1, 30))]).astype(np.int32))
    return build_tree([TokenSequence(ids) for ids in sequences])


def a_pictured_tree(seed: int = 0, num_sequences: int = 7) -> tuple[PrefixTree, list[TokenSequence]]:
    """Branches on branches, pictures in them whose tokens see one another both ways."""
    rng = np.random.default_rng(seed)
    sequences: list[TokenSequence] = []
    for _ in range(num_sequences):
        parts = list[TokenSequence]()
        if sequences and rng.random() < 0.8:
            parent = sequences[rng.integers(len(sequences))]
            places = [place for place in range(1, len(parent) + 1) if not parent.cuts_a_run(place)]
            parts.append(parent.part(0, int(rng.choice(places))))
        for _ in range(rng.integers(1, 4)):
            parts.append(TokenSequence(rng.integers(0, 50, rng.integers(1, 12)).astype(np.int32)))
            length, digest = int(rng.integers(1, 14)), bytes([rng.integers(3)] * 32)
            parts.append(TokenSequence(np.full(length, 99, np.int32), (Media(0, length, digest, 8, 8),)))
        sequences.append(joined(*parts))
    return build_tree(sequences, int(rng.integers(1, 9)), two_way=True), sequences


def inputs(tree: PrefixTree, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(1, tree.num_tokens, heads, WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    # As models make them: heads are transposed views of rows.
    rows = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [row.transpose(1, 2).requires_grad_() for row in rows]


def by_definition(
    tree: PrefixTree,
    window: int | None,
    tensors: list[torch.Tensor],
    sequences: Sequence[TokenSequence] = (),
) -> torch.Tensor:
    """sequences: of the tree, where their pictures are seen both ways."""
    query, key, value = tensors
    key, value = (t.repeat_interleave(HEADS // KEY_HEADS, dim=1) for t in (key, value))
    visible = torch.zeros(tree.num_tokens, tree.num_tokens, dtype=torch.bool)
    for path in tree.paths_S:
        for place, token in enumerate(path):
            visible[token, path[max(0, place + 1 - (window or place + 1)) : place + 1].tolist()] = True
    for sequence, path in zip(sequences, tree.paths_S, strict=bool(sequences)):
        for item in sequence.media:
            for place in range(item.start, item.stop):
                visible[path[place], path[place : item.stop].tolist()] = True
    scores = (query @ key.mT * SCALE).masked_fill(~visible, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def computed(kernel: Kernel, tree: PrefixTree, window: int | None, tensors: list[torch.Tensor]) -> torch.Tensor:
    prepared = kernel.prepare(tree, window, torch.device("cpu"), tensors[0].dtype)
    return kernel.attend(*tensors, prepared, SCALE)


def check(kernel: Kernel, tree: PrefixTree, window: int | None, sequences: Sequence[TokenSequence] = ()) -> None:
    tensors = inputs(tree)
    found, expected = computed(kernel, tree, window, tensors), by_definition(tree, window, tensors, sequences)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for mine, truth in zip(
        torch.autograd.grad(found, tensors, upstream), torch.autograd.grad(expected, tensors, upstream), strict=True
    ):
        torch.testing.assert_close(mine, truth, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("window", [None, 1, 2, 7, 40])
@pytest.mark.parametrize("kernel", [CascadeKernel(), DenseKernel()])
def test_a_kernel_computes_what_the_definition_says(kernel: Kernel, window: int | None) -> None:
    for seed in range(5):
        check(kernel, a_tree(seed), window)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([None, 1, 3, 10, 25]), st.sampled_from([1, 4, 256]))
def test_cascades_are_exact_on_any_tree_and_window(
    seed: int, num_sequences: int, window: int | None, rows: int
) -> None:
    with patch.object(cascade, "_ROWS", rows):
        check(CascadeKernel(), a_tree(seed, num_sequences), window)


@pytest.mark.parametrize("window", [None, 1, 2, 7, 40])
@pytest.mark.parametrize("kernel", [CascadeKernel(), DenseKernel()])
def test_a_kernel_lets_tokens_of_a_picture_see_one_another(kernel: Kernel, window: int | None) -> None:
    for seed in range(5):
        tree, sequences = a_pictured_tree(seed)
        check(kernel, tree, window, sequences)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from([None, 1, 3, 10, 25]), st.sampled_from([1, 4, 256]))
def test_cascades_are_exact_on_any_tree_with_pictures(
    seed: int, num_sequences: int, window: int | None, rows: int
) -> None:
    tree, sequences = a_pictured_tree(seed, num_sequences)
    with patch.object(cascade, "_ROWS", rows):
        check(CascadeKernel(), tree, window, sequences)


def test_flex_attention_sees_what_the_definition_says() -> None:
    """Its forward, uncompiled: the block mask, the padding and the scale. It has no backward on the CPU."""
    for seed, window in product(range(3), [None, 1, 7]):
        for tree, sequences in ((a_tree(seed), []), a_pictured_tree(seed)):
            tensors = [tensor.detach().float() for tensor in inputs(tree)]
            found = computed(FlexKernel(), tree, window, tensors)
            expected = by_definition(tree, window, tensors, sequences)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_low_precision_cascade_merges_in_float32() -> None:
    tree = a_tree(3)
    exact = by_definition(tree, None, [t.detach() for t in inputs(tree)])
    found = computed(CascadeKernel(), tree, None, inputs(tree, torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert (found.double() - exact).abs().max() < 0.03


@pytest.mark.parametrize(("device", "kernel"), [("cpu", CascadeKernel), ("meta", DenseKernel)])
def test_each_device_gets_the_best_kernel_that_runs_on_it(device: str, kernel: type[Kernel]) -> None:
    assert type(choose_kernel(torch.device(device))) is kernel


def test_there_is_a_kernel_for_any_device() -> None:
    assert list(KERNELS)[-1] == "dense"
    assert DenseKernel.runs_on(torch.device("meta"))
