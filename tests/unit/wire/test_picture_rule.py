"""Rules of the published bases, and what is refused by them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.unit.wire.rules import FIXED, GEMMA_CONFIG, GEMMA_SETTINGS, PATCHES, QWEN_CONFIG, QWEN_SETTINGS
from wire.errors import InvalidRequest
from wire.extension import Media
from wire.picture_rule import PictureRule, rule_of
from wire.picture_runs import sequence_of


def test_a_screenshot_has_as_many_tokens_as_the_published_bases_make_of_it() -> None:
    qwen3 = rule_of(
        {"model_type": "qwen3_vl", "image_token_id": 151655, "vision_config": {"patch_size": 16}},
        {"patch_size": 16, "merge_size": 2, "size": {"shortest_edge": 65536, "longest_edge": 16777216}},
    )
    qwen2_5 = rule_of(
        {"model_type": "qwen2_5_vl", "vision_config": {"hidden_size": 1280}},
        {"patch_size": 14, "merge_size": 2, "min_pixels": 3136, "max_pixels": 12845056},
    )
    gemma = rule_of(
        {"model_type": "gemma3", "mm_tokens_per_image": 256, "vision_config": {"image_size": 896, "patch_size": 14}},
        {"size": {"height": 896, "width": 896}, "do_pan_and_scan": None},
    )
    assert qwen3
    assert qwen2_5
    assert gemma
    assert [rule.num_tokens(1280, 800) for rule in (qwen3, qwen2_5, gemma)] == [1000, 1334, 256]
    assert [rule.num_patches(1280, 800) for rule in (qwen3, qwen2_5, gemma)] == [4000, 5336, 4096]
    assert [rule.placeholder_id for rule in (qwen3, qwen2_5, gemma)] == [151655, 151655, 262144]


@pytest.mark.parametrize("rule", [PATCHES, FIXED], ids=lambda rule: rule.kind)
def test_a_rule_is_read_as_it_was_written(rule: PictureRule) -> None:
    assert PictureRule.from_json({**rule.to_json(), "of_a_later_version": 1}) == rule


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ({**QWEN_CONFIG, "model_type": "qwen3"}, QWEN_SETTINGS),
        ({**QWEN_CONFIG, "vision_config": None}, QWEN_SETTINGS),
        (QWEN_CONFIG, {}),
    ],
    ids=["another family", "no tower", "no processor"],
)
def test_other_bases_take_text_alone(config: dict[str, Any], settings: dict[str, Any]) -> None:
    assert rule_of(config, settings) is None


@pytest.mark.parametrize(
    ("config", "settings", "said"),
    [
        (GEMMA_CONFIG, {**GEMMA_SETTINGS, "do_pan_and_scan": True}, "do_pan_and_scan"),
        (QWEN_CONFIG, {**QWEN_SETTINGS, "do_resize": False}, "do_resize"),
        (QWEN_CONFIG, {**QWEN_SETTINGS, "patch_size": 14}, "do not fit the tower"),
        (GEMMA_CONFIG, {"size": {"height": 64, "width": 32}}, "do not fit the tower"),
    ],
)
def test_settings_that_are_not_served_are_named(config: dict[str, Any], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rule_of(config, settings)


def test_other_settings_are_another_preprocessing() -> None:
    other = rule_of(QWEN_CONFIG, {**QWEN_SETTINGS, "image_mean": [0.5, 0.5, 0.5]})
    assert other is not None
    assert other.preprocessing != PATCHES.preprocessing


def test_a_picture_that_is_too_narrow_is_refused() -> None:
    assert PATCHES.num_tokens(1, 200) == 15
    with pytest.raises(InvalidRequest, match="more than 200 times"):
        PATCHES.num_tokens(1, 201)


IDS = np.array([1, 9, 9, 9, 9, 2], np.int32)


def test_ids_and_media_that_fit_are_a_sequence() -> None:
    media = (Media(1, 2, bytes(32), 32, 16), Media(3, 2, bytes(32), 16, 32))
    assert sequence_of(PATCHES, "the prompt", IDS, media).media == media


@pytest.mark.parametrize(
    ("media", "said"),
    [
        ((Media(5, 2, bytes(32), 32, 16),), "picture 0 has tokens 5 to 7 of 6"),
        (
            (Media(1, 2, bytes(32), 32, 16), Media(2, 2, bytes(32), 32, 16)),
            "picture 1 has tokens 2 to 4 of 6, behind 3",
        ),
        ((Media(1, 2, bytes(32), 16, 16),), "picture 0 has 2 tokens: one of 16×16 pixels has 1"),
        ((Media(0, 2, bytes(32), 32, 16),), "picture 0 stands on tokens other than 9"),
    ],
    ids=["cut off", "overlapping", "of another length", "not on placeholders"],
)
def test_ids_and_media_that_do_not_fit_are_refused(media: tuple[Media, ...], said: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^the prompt: {said}"):
        sequence_of(PATCHES, "the prompt", IDS, media)
