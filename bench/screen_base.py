"""A small base that sees, of random weights, in the proportions that bases of a few billion have at screenshots.

Attention at 6,000 tokens would outweigh all else of a base so small: its heads are as wide as a quarter of the model,
and the tower has two layers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

PATCH, MERGE = 8, 2
"""A token for each 16×16 pixels, where real ones have 32×32: 640×400 pixels are the 1,000 tokens of 1280×800 there."""

NUM_WORDS = 1000
"""Ids of text; those of a picture's tokens come behind them."""
_START, _END, PLACEHOLDER, _VIDEO, _VOCABULARY = NUM_WORDS, NUM_WORDS + 1, NUM_WORDS + 2, NUM_WORDS + 3, 1024


@dataclass(frozen=True, slots=True)
class ScreenBase:
    """hidden, layers: of the text part."""

    hidden: int = 256
    layers: int = 4

    def make(self, folder: Path) -> Path:
        """Weights, and what makes pixels, in the folder; the same each time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            Qwen3VLForConditionalGeneration(self._config()).save_pretrained(folder)
        size = {"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": 1 << 24}
        Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, size=size).save_pretrained(folder)
        settings = folder / "preprocessor_config.json"
        published = {**json.loads(settings.read_text()), "image_processor_type": "Qwen2VLImageProcessor"}
        settings.write_text(json.dumps(published) + "\n")
        return folder

    def _config(self) -> Qwen3VLConfig:
        text = {
            "vocab_size": _VOCABULARY,
            "hidden_size": self.hidden,
            "intermediate_size": 4 * self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": self.hidden // 8,
            "max_position_embeddings": 16384,
            "rope_parameters": _rope(self.hidden // 8),
            "bos_token_id": 0,
            "eos_token_id": 0,
            "tie_word_embeddings": True,
        }
        tower = {
            "depth": 2,
            "hidden_size": self.hidden // 4,
            "intermediate_size": self.hidden,
            "num_heads": 2,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": self.hidden,
            "num_position_embeddings": 1024,
            "deepstack_visual_indexes": [0],
        }
        return Qwen3VLConfig(
            text_config=text,
            vision_config=tower,
            vision_start_token_id=_START,
            vision_end_token_id=_END,
            image_token_id=PLACEHOLDER,
            video_token_id=_VIDEO,
            tie_word_embeddings=True,
        )


def _rope(head_dim: int) -> dict[str, object]:
    """Half of a head's width divided among time, row and column."""
    side = head_dim // 6
    sections = [head_dim // 2 - 2 * side, side, side]
    return {"rope_type": "default", "rope_theta": 5e6, "mrope_section": sections, "mrope_interleaved": True}
