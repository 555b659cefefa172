"""Rules of pictures for tests: those of the tiny bases."""

from __future__ import annotations

from typing import Any

from wire.picture_rule import PictureRule, rule_of

QWEN_SETTINGS: dict[str, Any] = {
    "patch_size": 8,
    "merge_size": 2,
    "size": {"shortest_edge": 16 * 16, "longest_edge": 128 * 128},
}
QWEN_CONFIG: dict[str, Any] = {
    "model_type": "qwen3_vl",
    "image_token_id": 9,
    "vision_config": {"patch_size": 8, "spatial_merge_size": 2},
}
GEMMA_SETTINGS: dict[str, Any] = {"size": {"height": 32, "width": 32}}
GEMMA_CONFIG: dict[str, Any] = {
    "model_type": "gemma3",
    "image_token_index": 9,
    "mm_tokens_per_image": 4,
    "vision_config": {"patch_size": 8, "image_size": 32},
}


def _rule(config: dict[str, Any], settings: dict[str, Any]) -> PictureRule:
    rule = rule_of(config, settings)
    assert rule is not None
    return rule


PATCHES, FIXED = _rule(QWEN_CONFIG, QWEN_SETTINGS), _rule(GEMMA_CONFIG, GEMMA_SETTINGS)
