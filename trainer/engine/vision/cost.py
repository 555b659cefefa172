"""What a picture costs to encode, in tokens of the text part: what plans balance shards and bound micro-batches by."""

# P patches of a picture

from __future__ import annotations

from dataclasses import dataclass

from wire.extension import Media
from wire.picture_rule import PictureRule


@dataclass(frozen=True, slots=True)
class PictureCost:
    """tokens_per_patch: multiplications of a patch by the tower's weights, next to those of a token by the weights of
    the text part's layers, there and back; a tower has no backward. tokens_per_pair: of attention of one patch to one
    other, in layers whose patches all attend to one another."""

    rule: PictureRule
    tokens_per_patch: float
    tokens_per_pair: float

    def of(self, item: Media) -> float:
        """In tokens."""
        num_patches = self.rule.num_patches(item.width, item.height)
        return num_patches * self.tokens_per_patch + num_patches**2 * self.tokens_per_pair
