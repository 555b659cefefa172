from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from trainer.engine.attention import IMPLEMENTATION, PackedLayout, UnsupportedArchitecture, packed_attention
from trainer.engine.kernels.cascade import CascadeKernel
from trainer.engine.prefix_tree import build_tree
from wire.extension import TokenSequence

LAYOUT = PackedLayout(build_tree([TokenSequence(np.array(ids)) for ids in ([1, 2, 3], [1, 2, 5, 6])]), CascadeKernel())


def heads(num_heads: int, seed: int) -> torch.Tensor:
    return torch.randn(1, num_heads, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def attend(sliding_window: int | None = None, scaling: float | None = None, **kwargs: object) -> torch.Tensor:
    query, key, value = heads(4, 0), heads(2, 1), heads(2, 2)
    out, _ = packed_attention(
        torch.nn.Module(),
        *(query, key, value, None),
        packed_layout=LAYOUT,
        scaling=scaling,
        sliding_window=sliding_window,
        **kwargs,
    )
    return out


@pytest.mark.parametrize("window", [None, 2])
def test_each_branch_sees_the_trunk_and_itself(window: int | None) -> None:
    query, key, value = heads(4, 0)[0], heads(2, 1)[0], heads(2, 2)[0]
    sees = {0: [0], 1: [0, 1], 2: [0, 1, 2], 3: [0, 1, 3], 4: [0, 1, 3, 4]}
    for token, keys in sees.items():
        seen = keys if window is None else keys[-window:]
        for head in range(4):
            weights = torch.softmax(key[head // 2, seen] @ query[head, token] / 6**0.5, dim=0)
            torch.testing.assert_close(attend(window)[0, token, head], weights @ value[head // 2, seen])


def test_what_layers_share_is_made_once() -> None:
    attend(3)
    made = dict(LAYOUT._made)
    attend(3)
    assert made == LAYOUT._made


@pytest.mark.parametrize("term", ["softcap", "s_aux", "position_bias"])
def test_terms_that_are_not_computed_are_refused_by_name(term: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=term):
        attend(**{term: 1.0})


def test_transformers_has_no_mask_to_make_for_it() -> None:
    assert IMPLEMENTATION not in ALL_MASK_ATTENTION_FUNCTIONS
