"""What is said of a picture without torch is what transformers makes of it: how many tokens, and where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.vision.families import FAMILIES, make_vision_model, processor_of, save_vision_family, small_tokenizer
from wire.extension import Media, TokenSequence, joined
from wire.picture_rule import PictureRule, rule_in
from wire.positions import next_position, positions_AN

SIDES = st.integers(1, 400)
QWENS = ("qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PictureRule]:
    found = dict[str, PictureRule]()
    for name, family in FAMILIES.items():
        folder = tmp_path_factory.mktemp(name)
        save_vision_family(family, folder)
        rule = rule_in(folder)
        assert rule is not None
        found[name] = rule
    return found


@given(width=SIDES, height=SIDES)
def test_a_picture_of_qwens_has_as_many_tokens_as_its_processor_says(
    rules: dict[str, PictureRule], width: int, height: int
) -> None:
    if max(width, height) > 200 * min(width, height):
        return
    for name in QWENS:
        pixels, rule = FAMILIES[name].make_image_processor(), rules[name]
        patches = pixels.get_number_of_image_patches(height, width)
        assert (rule.num_patches(width, height), rule.num_tokens(width, height)) == (patches, patches // 4)


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (1, 1), (33, 200), (500, 20)])
def test_a_processor_writes_and_cuts_as_the_rule_says(rules: dict[str, PictureRule], size: tuple[int, int]) -> None:
    for name, family in FAMILIES.items():
        rule, tokenizer, picture = rules[name], small_tokenizer(family), Image.new("RGB", size, "red")
        processor: Any = processor_of(family, tokenizer)
        found = processor(images=[picture], text=[f"a{family.picture}b"], return_tensors="pt")
        run = str(tokenizer.convert_ids_to_tokens(rule.placeholder_id)) * rule.num_tokens(*size)
        said = f"a{family.picture}b".replace(rule.template_text, rule.text_before + run + rule.text_after)
        assert found["input_ids"][0].tolist() == tokenizer(said)["input_ids"], name
        if name in QWENS:
            rows, columns = rule.grid(*size)
            assert found["image_grid_thw"].tolist() == [[1, rows * rule.merge, columns * rule.merge]]


def with_text(rule: PictureRule, parts: list[int | tuple[int, int]]) -> TokenSequence:
    """Runs of text so long, and pictures of these sizes; one id of text around each, as templates have it."""
    return joined(TokenSequence(np.array([7], np.int32)), *(_part(rule, part) for part in parts))


def _part(rule: PictureRule, part: int | tuple[int, int]) -> TokenSequence:
    if isinstance(part, int):
        # The placeholder's own id, as a policy may sample it, is text.
        return TokenSequence(np.full(part, rule.placeholder_id, np.int32))
    num_tokens = rule.num_tokens(*part)
    ids = np.append(np.full(num_tokens, rule.placeholder_id, np.int32), np.int32(7))
    return TokenSequence(ids, (Media(0, num_tokens, bytes(32), *part),))


@settings(deadline=None)
@given(st.lists(st.integers(0, 5) | st.tuples(st.integers(1, 180), st.integers(1, 180)), max_size=6))
def test_positions_are_those_of_transformers(
    rules: dict[str, PictureRule], models: dict[str, Any], parts: list[int | tuple[int, int]]
) -> None:
    for name in QWENS:
        rule, sequence = rules[name], with_text(rules[name], parts)
        grids = [rule.grid(each.width, each.height) for each in sequence.media]
        expected, delta = models[name].model.get_rope_index(
            torch.from_numpy(sequence.ids)[None].long(),
            torch.from_numpy(sequence.is_media)[None].int(),
            torch.tensor([[1, rows * rule.merge, columns * rule.merge] for rows, columns in grids]) if grids else None,
        )
        assert positions_AN(sequence, rule).tolist() == expected[:, 0].tolist()
        assert next_position(sequence, rule) == len(sequence) + int(delta)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: make_vision_model(FAMILIES[name]) for name in QWENS}


def test_text_and_pictures_of_gemma_count_on_by_one(rules: dict[str, PictureRule]) -> None:
    sequence = with_text(rules["gemma3"], [2, (64, 48), 1])
    assert positions_AN(sequence, rules["gemma3"]).tolist() == [list(range(len(sequence)))]
    assert next_position(sequence, rules["gemma3"]) == len(sequence)


def test_pictures_side_by_side_follow_one_another(rules: dict[str, PictureRule]) -> None:
    rule = rules["qwen3_vl"]
    one = TokenSequence(np.full(6, rule.placeholder_id, np.int32), (Media(0, 6, bytes(32), 48, 32),))
    assert positions_AN(joined(one, one), rule).tolist() == [
        [0, 0, 0, 0, 0, 0, 3, 3, 3, 3, 3, 3],
        [0, 0, 0, 1, 1, 1, 3, 3, 3, 4, 4, 4],
        [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5],
    ]


def test_a_folder_of_text_alone_has_no_rule(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    assert rule_in(tmp_path) is None
