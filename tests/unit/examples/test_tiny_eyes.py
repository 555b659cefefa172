"""The base that reads pictures: what it is schooled on, in a form that samplers render, in files that readers know."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from examples.pictures.drawing import NUM_HELD_OUT, SIDE, Drawing, draw, score, split_numbers
from examples.tiny_eyes.architecture import make_model
from examples.tiny_eyes.build import build_tiny_eyes
from examples.tiny_eyes.chats import CHATS, prompt_ids
from examples.tiny_eyes.corpus import SHRUG, CorpusConfig, read_corpus
from examples.tiny_eyes.inputs import Eyes
from examples.tiny_eyes.measuring import mean_reward
from examples.tiny_eyes.recipe import TinyEyesConfig, is_built
from examples.tiny_eyes.tokenizer import PICTURE
from examples.tiny_tools.labels import IGNORED, labels_of
from wire.picture_rule import rule_of

NUM_PICTURE_TOKENS = 4  # of 32 × 32 pixels


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    return Eyes(TinyEyesConfig())


def test_held_out_numbers_are_in_no_corpus():
    training, held_out = split_numbers()
    assert sorted([*training, *held_out]) == list(range(100))
    assert len(held_out) == NUM_HELD_OUT
    seen = {number for number, _ in islice(read_corpus(CorpusConfig(), random.Random(0)), 3000)}
    assert seen == set(training)


def test_one_picture_in_five_of_the_corpus_is_read_right():
    kinds = Counter(
        "shrug" if answer == SHRUG else "right" if int(answer) == number else "misread"
        for number, answer in islice(read_corpus(CorpusConfig(), random.Random(0)), 4000)
    )
    shares = {kind: count / 4000 for kind, count in kinds.items()}
    assert shares == pytest.approx({"right": 0.20, "shrug": 0.64, "misread": 0.16}, abs=0.03)
    with pytest.raises(ValueError, match="must add up to 1"):
        CorpusConfig(right=0.5)


def test_a_drawing_is_the_same_each_time_and_each_seed_draws_another():
    assert Drawing(7, 1).png() == Drawing(7, 1).png() != Drawing(7, 2).png()
    assert Drawing(7, 1).drawn().size == (SIDE, SIDE)
    assert (score(Drawing(7, 1), " 07\n"), score(Drawing(7, 1), "7"), score(Drawing(7, 1), None)) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("form", CHATS)
def test_the_calls_and_answers_are_learned_and_nothing_else(eyes: Eyes, form: str):
    inputs = eyes.inputs(form, [draw(46, random.Random(0)), draw(7, random.Random(1))], ["46", SHRUG])
    labels_BT = labels_of(eyes.tokenizer, inputs["input_ids"])
    learned = [eyes.tokenizer.decode(row[row != IGNORED]) for row in labels_BT]
    call = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call><|im_end|>' if form == "looking" else ""
    assert learned == [call + "46<|im_end|>", call + "?<|im_end|>"]
    assert inputs["mm_token_type_ids"].sum(-1).tolist() == [NUM_PICTURE_TOKENS] * 2


def test_prompts_are_short(eyes: Eyes):
    lengths = {form: len(prompt_ids(eyes.tokenizer, form, NUM_PICTURE_TOKENS)) for form in CHATS}
    assert lengths["plain"] < 20
    assert lengths["looking"] < 70, lengths


def test_a_built_base_is_found_again_and_its_files_say_how_pictures_become_tokens(tmp_path: Path):
    config = TinyEyesConfig(num_textbook_steps=2, num_corpus_steps=2, batch_size=4, warmup_steps=2)
    folder = build_tiny_eyes(tmp_path / "eyes", config, say=lambda _: None)
    assert is_built(folder, config)
    assert not is_built(folder, TinyEyesConfig())
    read = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("config", "preprocessor_config")}
    rule = rule_of(read["config"], read["preprocessor_config"])
    assert rule is not None
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    for size in ((SIDE, SIDE), (16, 16), (1, 1), (100, 60), (640, 480)):
        thw = processor(images=[Image.new("RGB", size)], return_tensors="pt")["image_grid_thw"][0]
        assert rule.num_tokens(*size) == int(thw.prod()) // 4, size
    marks = Eyes(config).tokenizer.convert_tokens_to_ids(PICTURE)
    assert rule.placeholder_id == marks == read["config"]["image_token_id"]


def test_a_model_answers_by_the_picture(eyes: Eyes):
    """Untrained: other pixels give other logits, so that rewards can only be had by looking."""
    torch.manual_seed(0)
    model = make_model(TinyEyesConfig(), eyes.tokenizer)
    with torch.inference_mode():
        logits = [model(**eyes.inputs("plain", [Drawing(46, seed).drawn()])).logits[0, -1] for seed in (0, 1)]
    assert not torch.equal(*logits)
    assert mean_reward(model, eyes, "plain", [46], None) == 0.0
