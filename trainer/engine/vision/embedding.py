"""Pictures in a pack: where their tokens lie, at which positions, and what takes the place of their embeddings.

A run is never split: sequences that share one share all of it, for what stands before it in a comparison says how long
it is. So a run lies in one piece in the pack, once for all sequences that share it.
"""

# A axes of positions, T packed tokens, V packed tokens that stand for pictures, D hidden size

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainer.engine.vision.features import Features
from trainer.engine.vision.sight import Sight
from wire.extension import Media, TokenSequence
from wire.positions import positions_AN


@dataclass(frozen=True, slots=True, eq=False)
class PackedPictures:
    """positions_AT: int64, of all tokens of the pack. rows_V: int64, ascending, which of them stand for pictures.
    features: of each run, in the order of rows_V."""

    positions_AT: torch.Tensor
    rows_V: torch.Tensor
    features: tuple[Features, ...]

    @property
    def num_bytes(self) -> int:
        """Of the features of all runs: a pass holds a copy of them, in the order of the pack."""
        return sum(each.num_bytes for each in self.features)

    @property
    def position_ids(self) -> torch.Tensor:
        """As the text part takes them: [A, 1, T], or [1, T] for one axis."""
        return self.positions_AT[:, None] if len(self.positions_AT) > 1 else self.positions_AT

    def embedded(self, embeddings_TD: torch.Tensor) -> torch.Tensor:
        """The embeddings of all tokens, of which those of placeholders give way to pictures. A gradient reaches the
        others."""
        rows_VD = torch.cat([each.rows_ND for each in self.features])
        return embeddings_TD.index_copy(0, self.rows_V, rows_VD.to(embeddings_TD))

    def levels(self, num_tokens: int) -> dict[str, Any]:
        """What the text part takes of a tower with levels; nothing of others."""
        num_levels = len(self.features[0].levels)
        if not num_levels:
            return {}
        is_picture_T = torch.zeros(num_tokens, dtype=torch.bool, device=self.rows_V.device)
        is_picture_T[self.rows_V] = True
        levels = [torch.cat([each.levels[level] for each in self.features]) for level in range(num_levels)]
        return {"visual_pos_masks": is_picture_T[None], "deepstack_visual_embeds": levels}


def pack_pictures(
    sequences_S: Sequence[TokenSequence],
    paths_S: Sequence[npt.NDArray[np.int64]],
    num_tokens: int,
    sight: Sight,
    device: torch.device,
) -> PackedPictures | None:
    """The pictures of a pack of so many tokens, in which the sequences lie on these paths; None where there are
    none."""
    if not any(sequence.media for sequence in sequences_S):
        return None
    positions_AT = np.empty((sight.rule.axes, num_tokens), np.int64)
    runs: dict[int, Media] = {}  # by where they begin in the pack
    for sequence, path in zip(sequences_S, paths_S, strict=True):
        positions_AT[:, path] = positions_AN(sequence, sight.rule)
        runs |= {int(path[item.start]): item for item in sequence.media}
    starts = sorted(runs)
    rows_V = np.concatenate([np.arange(start, start + runs[start].num_tokens) for start in starts])
    return PackedPictures(
        torch.from_numpy(positions_AT).to(device),
        torch.from_numpy(rows_V).to(device),
        tuple(sight.features(runs[start]) for start in starts),
    )
