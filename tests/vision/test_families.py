"""The tiny bases are what they stand for: transformers reads them back, and their answers depend on their pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from tests.vision.families import (
    FAMILIES,
    VisionFamily,
    drawn,
    make_vision_model,
    processor_of,
    save_vision_family,
    small_tokenizer,
)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> VisionFamily:
    return FAMILIES[request.param]


def logits(model: Any, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits[0]


def inputs_of(family: VisionFamily, *pictures: Any) -> Any:
    text = "hello " + " then ".join(family.picture for _ in pictures) + " what?"
    images: Any = [list(pictures)] if family.name == "gemma3" else list(pictures)
    return processor_of(family)(images=images, text=[text], return_tensors="pt")


def test_a_saved_base_is_read_back_to_the_bit(family: VisionFamily, tmp_path: Path) -> None:
    save_vision_family(family, tmp_path)
    read, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not [*info["missing_keys"], *info["unexpected_keys"]]
    inputs = inputs_of(family, drawn(1), drawn(2, 80, 40))
    assert torch.equal(logits(read.eval(), inputs), logits(make_vision_model(family), inputs))
    pixels: Any = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    again: Any = pixels(images=[drawn(1), drawn(2, 80, 40)], return_tensors="pt")["pixel_values"]
    assert torch.equal(again, inputs["pixel_values"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.get_vocab() == small_tokenizer(family).get_vocab()
    if family.name == "gemma3":
        whole: Any = AutoProcessor.from_pretrained(tmp_path, backend="pil")
        assert whole.image_seq_length == processor_of(family).image_seq_length


def test_answers_depend_on_the_pictures_and_on_their_order(family: VisionFamily) -> None:
    model, one, other = make_vision_model(family), drawn(1), drawn(2)
    last = [logits(model, inputs_of(family, *pair))[-1].log_softmax(-1) for pair in ((one, other), (other, one))]
    assert (last[0] - last[1]).abs().max() > 0.01


def test_a_template_writes_a_picture_where_it_stands(family: VisionFamily) -> None:
    content: list[dict[str, Any]] = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    messages = [{"role": "user", "content": content}]
    text = small_tokenizer(family).apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert f"a{family.picture}b" in text
