"""What the model is called with: the tokens of chats, and the patches of the pictures in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from examples.tiny_eyes.architecture import make_picture_processor
from examples.tiny_eyes.chats import prompt_ids
from examples.tiny_eyes.recipe import TinyEyesConfig
from examples.tiny_eyes.tokenizer import PICTURE, build_tokenizer

# B batch, T tokens

LONGEST_ANSWER = 3  # tokens: two digits and the end of the turn


class Eyes:
    """The tokenizer and the picture processor of a base."""

    def __init__(self, config: TinyEyesConfig) -> None:
        self.tokenizer = build_tokenizer(config.context_length)
        self._processor = make_picture_processor(config)
        self._patches_per_token = config.merge_size**2
        self._placeholder: Any = self.tokenizer.convert_tokens_to_ids(PICTURE)

    def inputs(
        self, form: str, pictures: Sequence[Image.Image], answers: Sequence[str] = ()
    ) -> dict[str, torch.Tensor]:
        """One chat of this form a picture, with an answer behind each where there are some: all of one length, short
        answers padded on the right. The pictures have one size."""
        seen = self._processor(images=list(pictures), return_tensors="pt")
        num_tokens = int(seen["image_grid_thw"][0].prod()) // self._patches_per_token
        prompt = prompt_ids(self.tokenizer, form, num_tokens)
        rows = [prompt + written for written in map(self._written, answers)] if answers else [prompt] * len(pictures)
        input_BT = torch.tensor(rows)
        return {
            "input_ids": input_BT,
            "mm_token_type_ids": torch.eq(input_BT, self._placeholder).int(),
            "pixel_values": seen["pixel_values"],
            "image_grid_thw": seen["image_grid_thw"],
        }

    def _written(self, answer: str) -> list[int]:
        end: Any = self.tokenizer.eos_token_id
        written = [*self.tokenizer.encode(answer, add_special_tokens=False), end]
        padding: Any = self.tokenizer.pad_token_id
        return written + [padding] * (LONGEST_ANSWER - len(written))

    def save_picture_processor(self, folder: Path) -> None:
        """preprocessor_config.json under the class names of published Qwen3-VL bases, which readers go by."""
        self._processor.save_pretrained(folder)
        file = folder / "preprocessor_config.json"
        config = json.loads(file.read_text())
        config |= {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen3VLProcessor"}
        file.write_text(json.dumps(config, indent=2) + "\n")
