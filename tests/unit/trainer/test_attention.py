from __future__ import annotations

import pytest
import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from trainer.attention import IMPLEMENTATION, PackedLayout, UnsupportedArchitecture, packed_attention

# Two sequences of 3 and 5 tokens, 4 query heads on 2 key heads.
LAYOUT = PackedLayout((3, 5))


def heads(num_heads: int, seed: int) -> torch.Tensor:
    return torch.randn(1, num_heads, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def attend(sliding_window: int | None = None, **kwargs: object) -> torch.Tensor:
    query, key, value = heads(4, 0), heads(2, 1), heads(2, 2)
    module = torch.nn.Module()
    out, _ = packed_attention(
        module, query, key, value, None, packed_layout=LAYOUT, scaling=0.3, sliding_window=sliding_window, **kwargs
    )
    return out


def by_hand(window: int) -> torch.Tensor:
    query, key, value = heads(4, 0)[0], heads(2, 1)[0], heads(2, 2)[0]
    out = torch.zeros(1, 8, 4, 6, dtype=torch.float64)
    for head in range(4):
        for t in range(8):
            start = max(0 if t < 3 else 3, t - window + 1)
            weights = torch.softmax(0.3 * key[head // 2, start : t + 1] @ query[head, t], dim=0)
            out[0, t, head] = weights @ value[head // 2, start : t + 1]
    return out


@pytest.mark.parametrize("window", [None, 1, 2, 4])
def test_a_token_sees_its_own_sequence_up_to_itself(window: int | None) -> None:
    torch.testing.assert_close(attend(window), by_hand(window or 99), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("term", ["softcap", "s_aux", "position_bias"])
def test_terms_that_are_not_computed_are_refused_by_name(term: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=term):
        attend(**{term: 1.0})


def test_transformers_has_no_mask_to_make_for_it() -> None:
    assert IMPLEMENTATION not in ALL_MASK_ATTENTION_FUNCTIONS
