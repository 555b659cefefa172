"""What a base's tower multiplies for a picture, and holds meanwhile, counted from the shapes of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from trainer.engine.text_part import text_part, tower_names
from trainer.engine.vision.cost import PictureCost
from wire.picture_rule import PictureRule

_BEHIND_THE_LAYERS = ("merger", "projector")
"""In the names of what computes a picture's tokens, which are fewer than its patches."""

_POOLING = "vision_tower.head"
"""SigLIP's, where it has one: it makes one vector of all patches, which nobody reads."""

_WIDTHS = 10
"""Of the tower, that each patch has at once where a layer holds most: its input, norms, queries, keys, values, what
attention makes of them, and copies of those in another order."""

_SIDE = 512
"""Of some picture, in pixels: how many tokens come of how many patches is the same for all."""


def picture_cost(model: PreTrainedModel, rule: PictureRule) -> PictureCost:
    """On this base, whatever the picture."""
    embeddings = sum(p.numel() for p in model.get_input_embeddings().parameters())
    weights = sum(p.numel() for p in text_part(model).parameters()) - embeddings
    config: Any = model.config.vision_config
    num_layers = len(getattr(config, "fullatt_block_indexes", ())) or getattr(config, "depth", 0)
    pair = 2 * int(config.hidden_size) * int(num_layers or config.num_hidden_layers)
    return PictureCost(rule, products_per_patch(model, rule) / (2 * weights), pair / (2 * weights))


def encoding_bytes(model: PreTrainedModel, rule: PictureRule, context_length: int) -> int:
    """What the tower holds while it encodes the largest picture that a sequence has room for: pixels, as they come and
    in its dtype, and what a layer computes."""
    config: Any = model.config.vision_config
    most_tokens = min(context_length, rule.tokens or rule.max_pixels // (rule.patch * rule.merge) ** 2)
    num_patches = rule.max_pixels // rule.patch**2 if rule.tokens else most_tokens * rule.merge**2
    pixels = int(getattr(config, "num_channels", 3)) * int(getattr(config, "temporal_patch_size", 1)) * rule.patch**2
    widths = _WIDTHS * int(config.hidden_size) + 2 * int(config.intermediate_size)
    return num_patches * (pixels * (torch.float32.itemsize + model.dtype.itemsize) + widths * model.dtype.itemsize)


def products_per_patch(model: PreTrainedModel, rule: PictureRule) -> float:
    """Multiplications by the tower's weights."""
    num_patches = rule.num_patches(_SIDE, _SIDE)
    tokens_per_patch = rule.num_tokens(_SIDE, _SIDE) / num_patches
    shares = ((p, tokens_per_patch if behind else 1.0) for p, behind in _matrices(model))
    return sum(parameter.numel() * share for parameter, share in shares)


def _matrices(model: PreTrainedModel) -> Iterator[tuple[torch.nn.Parameter, bool]]:
    """The tower's, and whether each computes tokens; not tables of positions, which nothing is multiplied by."""
    for path in tower_names(model):
        for name, module in model.get_submodule(path).named_modules(prefix=path):
            behind = any(word in name for word in _BEHIND_THE_LAYERS)
            if not isinstance(module, torch.nn.Embedding) and _POOLING not in name:
                yield from ((p, behind) for p in module.parameters(recurse=False) if p.dim() > 1)
