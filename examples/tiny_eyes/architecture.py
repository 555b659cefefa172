"""The architecture of this base, with random weights at first, and what turns pictures into its patches."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from examples.tiny_eyes.recipe import TinyEyesConfig
from examples.tiny_eyes.tokenizer import PICTURE, VIDEO, VISION_END, VISION_START


def make_model(config: TinyEyesConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    """Untrained, drawn from torch's generator. The features of the tower's first layer join the text's first layer, as
    in every Qwen3-VL ("deepstack")."""
    marker: Any = tokenizer.convert_tokens_to_ids
    architecture = Qwen3VLConfig(
        text_config=_text_config(config, tokenizer),
        vision_config=_vision_config(config),
        image_token_id=marker(PICTURE),
        video_token_id=marker(VIDEO),
        vision_start_token_id=marker(VISION_START),
        vision_end_token_id=marker(VISION_END),
        tie_word_embeddings=True,
        dtype="float32",
    )
    return Qwen3VLForConditionalGeneration(architecture)


def _text_config(config: TinyEyesConfig, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    third = config.head_dim // 6
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [config.head_dim // 2 - 2 * third, third, third],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.05,
    }


def _vision_config(config: TinyEyesConfig) -> dict[str, Any]:
    return {
        "depth": config.tower_layers,
        "hidden_size": config.tower_hidden_size,
        "intermediate_size": config.tower_intermediate_size,
        "num_heads": config.tower_heads,
        "patch_size": config.patch_size,
        "spatial_merge_size": config.merge_size,
        "temporal_patch_size": 2,
        "out_hidden_size": config.hidden_size,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
        "initializer_range": 0.05,
    }


def make_picture_processor(config: TinyEyesConfig) -> Qwen2VLImageProcessorPil:
    """The preprocessing of the Qwen-VL family, by Pillow. Pictures of more tokens than the config says are scaled down,
    those of less than one are scaled up."""
    side = config.patch_size * config.merge_size
    return Qwen2VLImageProcessorPil(
        patch_size=config.patch_size,
        merge_size=config.merge_size,
        temporal_patch_size=2,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        size={"shortest_edge": side * side, "longest_edge": config.max_picture_tokens * side * side},
    )
