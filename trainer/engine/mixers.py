"""Linear-attention mixers under a prefix tree: they see plain sequences, one from each leaf up to its root.

A mixer that carries a state from token to token (a short convolution, a gated delta rule) would carry it from one
branch of the tree into the next. So only inside such a mixer the shared tokens are computed once a path: gathered to
rows, and from each token one of its copies is taken back. All else of the model goes on sharing.
"""

# S leaves, L tokens of the longest path, T packed tokens, D hidden size

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trainer.engine.attention import PackedLayout
from trainer.engine.prefix_tree import PrefixTree


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """tokens_SL: the packed token in each place of each row; behind a row's end, which nothing before it sees, any.

    rows_T, columns_T: where a token's copy is.
    """

    tokens_SL: torch.Tensor
    rows_T: torch.Tensor
    columns_T: torch.Tensor


def paths_of(tree: PrefixTree, device: torch.device) -> Paths:
    """A row for each leaf of the tree."""
    ends_T = tree.ends_T
    leaves = {int(path[-1]): path for path in tree.paths_S if ends_T[path[-1]] == path[-1] + 1}
    tokens_SL = np.zeros((len(leaves), max(map(len, leaves.values()))), np.int64)
    rows_T = np.empty(tree.num_tokens, np.int64)
    for row, path in enumerate(leaves.values()):
        tokens_SL[row, : len(path)] = path
        rows_T[path] = row
    return Paths(*(torch.from_numpy(array).to(device) for array in (tokens_SL, rows_T, tree.depths_T)))


def expand(mixer: torch.nn.Module) -> None:
    """Let a mixer compute each path of the pack by itself. Takes the place of its forward."""
    plain_rows = mixer.forward

    def forward(hidden_states: torch.Tensor, *_: Any, packed_layout: PackedLayout | None = None, **kwargs: Any) -> Any:
        if packed_layout is None:
            return plain_rows(hidden_states, *_, **kwargs)
        paths = packed_layout.once("paths", lambda: paths_of(packed_layout.tree, hidden_states.device))
        mixed_SLD = plain_rows(hidden_states[0][paths.tokens_SL])
        return mixed_SLD[paths.rows_T, paths.columns_T][None]

    mixer.forward = forward
