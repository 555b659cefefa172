"""Prompts with pictures, and what transformers and PEFT compute of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import peft
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer

from tests.vision.families import VisionFamily, png_of, processor_of
from wire.picture_rule import rule_in
from wire.sampling import MediaItem

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOWERS = r".*(visual|vision_tower|multi_modal_projector)\..*"


@dataclass
class Prompt:
    """Ids with their pictures; `shown` in the order of `media`."""

    ids: list[int] = field(default_factory=list)
    media: list[MediaItem] = field(default_factory=list)
    shown: list[Image.Image] = field(default_factory=list)

    @property
    def pictures(self) -> dict[str, bytes]:
        return {item.name: png_of(picture) for item, picture in zip(self.media, self.shown, strict=True)}


class Seeing:
    """A tiny base of a family in a folder, its adapters, and the reference for both."""

    def __init__(self, family: VisionFamily, folder: Path) -> None:
        self.family, self.folder = family, folder
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        rule = rule_in(folder)
        assert rule is not None
        self.rule = rule
        self._pixels = processor_of(family).image_processor

    def prompt(self, *parts: str | Image.Image | Sequence[int], after: Prompt | None = None) -> Prompt:
        """Texts, ids and pictures, one behind the other, behind another prompt."""
        before = after or Prompt()
        made = Prompt([*before.ids], [*before.media], [*before.shown])
        opening, closing = (self.tokenizer.encode(t) for t in self.family.picture.split(self.rule.template_text))
        for part in parts:
            if isinstance(part, Image.Image):
                made.ids += opening
                num_tokens = self.rule.num_tokens(*part.size)
                size = {"width": part.width, "height": part.height}
                name = sha256(png_of(part)).hexdigest()
                made.media.append(MediaItem(start=len(made.ids), num_tokens=num_tokens, name=name, **size))
                made.shown.append(part)
                made.ids += [self.rule.placeholder_id] * num_tokens + closing
            else:
                made.ids += self.tokenizer.encode(part) if isinstance(part, str) else part
        return made

    def save_adapter(self, folder: Path, seed: int, targets: Sequence[str] = TARGETS) -> Path:
        """Of random weights, on the text part alone."""
        lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=[*targets], exclude_modules=TOWERS)
        model = peft.get_peft_model(AutoModelForImageTextToText.from_pretrained(self.folder), lora)
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.15)
        model.save_pretrained(str(folder), save_embedding_layers=False)
        return folder

    def logprobs(self, adapter: Path | None, prompt: Prompt) -> torch.Tensor:
        """Nats (N, V): row i is of what follows token i."""
        ids = torch.tensor([prompt.ids])
        runs = torch.zeros_like(ids)
        for item in prompt.media:
            runs[0, item.start : item.start + item.num_tokens] = 1
        seen: Mapping[str, Any] = {}
        if prompt.shown:
            seen = {**self._pixels(images=prompt.shown, return_tensors="pt"), "mm_token_type_ids": runs}
        with torch.no_grad():
            return _model(self.folder, adapter)(input_ids=ids, use_cache=False, **seen).logits[0].log_softmax(-1)


@cache
def _model(base: Path, adapter: Path | None) -> Any:
    model = AutoModelForImageTextToText.from_pretrained(base).eval()
    return peft.PeftModel.from_pretrained(model, str(adapter)).eval() if adapter else model
