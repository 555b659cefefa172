"""Bases of a few random weights that see: Qwen2.5-VL, Qwen3-VL and Gemma 3, with image processors of Pillow alone.

Their small tokenizer has a token a byte and those of the family; `tests.families.download` brings the real ones.
Qwen's processors want a processor of videos, which needs torchvision: `processor_of` makes them without one. With that
they are the reference of what is rendered, and of which pixels a tower sees.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import (
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from examples.tiny_base.tokenizer import build_tokenizer, save_tokenizer
from tests.families.bases import TOKENIZERS

CONTEXT = 4096
PATCH, MERGE, TOKENS_OF_GEMMA = 8, 2, 4
"""A picture of Qwen's is a token for each 16×16 pixels, one of Gemma's is 4 tokens whatever its size."""
# Heads of 32: vLLM's attention on a CPU takes none of 16.
_TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.15,
}
_QWEN_TOWER: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": 2,
    "out_hidden_size": 64,
    "initializer_range": 0.15,
}
_QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_GEMMA_TOKENS = (
    *("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
)
_GEMMA_NAMES = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}


class Qwen3VLProcessorOfPictures(Qwen3VLProcessor):
    """Without videos."""

    get_attributes = classmethod(lambda cls: ["image_processor", "tokenizer"])  # pyright: ignore


class Qwen25VLProcessorOfPictures(Qwen2_5_VLProcessor):
    """Without videos."""

    get_attributes = classmethod(lambda cls: ["image_processor", "tokenizer"])  # pyright: ignore


@dataclass(frozen=True)
class VisionFamily:
    """tokenizer: of which family in `tests.families`. picture: how a template writes one. placeholder: the token that
    stands for a part of one in the ids. tokens: that the small tokenizer has of it."""

    name: str
    tokenizer: str
    picture: str
    placeholder: str
    end_tokens: Sequence[str]
    tokens: Sequence[str]
    template: str
    make_model: Callable[..., PreTrainedModel]
    make_image_processor: Callable[[], Any]
    make_processor: Callable[[Any, PreTrainedTokenizerFast], Any]

    @property
    def template_file(self) -> Path:
        return Path(__file__).with_name(self.template)


def _qwen3_vl(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={**_TEXT, "head_dim": 32, "vocab_size": len(tokenizer) + 7, "rope_parameters": rope},
        vision_config={**_QWEN_TOWER, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        **_qwen_ids(tokenizer),
    )
    return Qwen3VLForConditionalGeneration(config)


def _qwen2_5_vl(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [6, 5, 5]}
    config = Qwen2_5_VLConfig(
        text_config={**_TEXT, "vocab_size": len(tokenizer) + 7, "rope_parameters": rope},
        vision_config={**_QWEN_TOWER, "window_size": 32, "fullatt_block_indexes": [1]},
        **_qwen_ids(tokenizer),
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def _gemma3(tokenizer: PreTrainedTokenizerFast, **text_config: Any) -> PreTrainedModel:
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    layers = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 8}
    text = {**_TEXT, **layers, "head_dim": 32, "query_pre_attn_scalar": 32}
    config = Gemma3Config(
        text_config={**text, "vocab_size": len(tokenizer) + 7, **text_config},
        vision_config={**tower, "image_size": 4 * PATCH, "patch_size": PATCH},
        mm_tokens_per_image=TOKENS_OF_GEMMA,
        image_token_index=_id(tokenizer, "<image_soft_token>"),
        boi_token_index=_id(tokenizer, "<start_of_image>"),
        eoi_token_index=_id(tokenizer, "<end_of_image>"),
    )
    model = Gemma3ForConditionalGeneration(config)
    # It begins at zero, so that all pictures would look the same.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.3)
    return model


def _qwen_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return {name: _id(tokenizer, token) for name, token in zip(names, _QWEN_TOKENS, strict=True)}


def _id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    assert found != tokenizer.unk_token_id
    return found


def _qwen_pixels() -> Qwen2VLImageProcessorPil:
    size = {"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": (16 * PATCH) ** 2}
    return Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2, size=size)


def _gemma_pixels() -> Gemma3ImageProcessorPil:
    return Gemma3ImageProcessorPil(size={"height": 4 * PATCH, "width": 4 * PATCH})


def _qwen(name: str, make_model: Callable[[PreTrainedTokenizerFast], PreTrainedModel], processor: Any) -> VisionFamily:
    return VisionFamily(
        name,
        tokenizer="qwen3",
        picture="<|vision_start|><|image_pad|><|vision_end|>",
        placeholder="<|image_pad|>",
        end_tokens=["<|im_end|>", "<|endoftext|>"],
        tokens=_QWEN_TOKENS,
        template="qwen_vl.jinja",
        make_model=make_model,
        make_image_processor=_qwen_pixels,
        make_processor=lambda pixels, tokenizer: processor(image_processor=pixels, tokenizer=tokenizer),
    )


FAMILIES = {
    family.name: family
    for family in (
        _qwen("qwen2_5_vl", _qwen2_5_vl, Qwen25VLProcessorOfPictures),
        _qwen("qwen3_vl", _qwen3_vl, Qwen3VLProcessorOfPictures),
        VisionFamily(
            "gemma3",
            tokenizer="gemma3",
            picture="<start_of_image>",
            placeholder="<image_soft_token>",
            end_tokens=["<end_of_turn>", "<eos>"],
            tokens=_GEMMA_TOKENS,
            template="gemma3.jinja",
            make_model=_gemma3,
            make_image_processor=_gemma_pixels,
            make_processor=partial(Gemma3Processor, image_seq_length=TOKENS_OF_GEMMA),
        ),
    )
}


def small_tokenizer(family: VisionFamily) -> PreTrainedTokenizerFast:
    """A token a byte, those of ChatML, and those of the family."""
    tokenizer = build_tokenizer(CONTEXT)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in family.tokens])
    if family.name == "gemma3":
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer,
            bos_token="<bos>",
            eos_token="<end_of_turn>",
            pad_token=tokenizer.pad_token,
            extra_special_tokens=_GEMMA_NAMES,
            model_max_length=CONTEXT,
            clean_up_tokenization_spaces=False,
        )
    tokenizer.chat_template = family.template_file.read_text()
    return tokenizer


def real_tokenizer(family: VisionFamily) -> PreTrainedTokenizerFast:
    """The family's own; `python -m tests.families.download --out .headway-cache/tokenizers` brings it. Its template is
    the family's where the package has one with pictures."""
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(TOKENIZERS / family.tokenizer)
    if "image" not in str(tokenizer.chat_template):
        tokenizer.chat_template = family.template_file.read_text()
    return tokenizer


def make_vision_model(
    family: VisionFamily,
    tokenizer: PreTrainedTokenizerFast | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 7,
) -> PreTrainedModel:
    """Of random weights, the same each time. tokenizer: None for the small one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return family.make_model(tokenizer or small_tokenizer(family)).to(dtype).eval()


def processor_of(family: VisionFamily, tokenizer: PreTrainedTokenizerFast | None = None) -> Any:
    """transformers' own: `processor(images=…, text=[…], return_tensors="pt")` gives what its forward takes."""
    return family.make_processor(family.make_image_processor(), tokenizer or small_tokenizer(family))


def save_vision_family(family: VisionFamily, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
    """A base as it is published, of `make_vision_model`: weights, tokenizer, template and what makes pixels."""
    tokenizer = tokenizer or small_tokenizer(family)
    model = make_vision_model(family, tokenizer)
    known = tokenizer.get_vocab()
    end_ids = [known[token] for token in family.end_tokens if token in known]
    model.generation_config = GenerationConfig(eos_token_id=end_ids)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    family.make_image_processor().save_pretrained(folder)
    if family.name == "gemma3":
        _as_published(folder / "model.safetensors")
        _write(folder / "processor_config.json", image_seq_length=TOKENS_OF_GEMMA, processor_class="Gemma3Processor")
    published = {"gemma3": "Gemma3ImageProcessor"}.get(family.name, "Qwen2VLImageProcessor")
    _write(folder / "preprocessor_config.json", image_processor_type=published)


def _as_published(weights: Path) -> None:
    """Gemma's tower has one level of names more in its files, without which vLLM does not find it."""
    renamed = {
        name.replace("vision_tower.", "vision_tower.vision_model.", 1)
        if name.startswith("vision_tower.") and "vision_model." not in name
        else name: tensor
        for name, tensor in load_file(weights).items()
    }
    save_file(renamed, weights, {"format": "pt"})


def _write(file: Path, **fields: Any) -> None:
    before = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**before, **fields}, indent=2) + "\n")


def drawn(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """A picture of noise, RGB."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png_of(picture: Image.Image) -> bytes:
    """Its canonical form: RGB of 8 bits, no metadata."""
    into = io.BytesIO()
    picture.convert("RGB").save(into, "PNG")
    return into.getvalue()
