"""Random models of the sizes that are measured, made on the spot: the same seed gives the same weights."""

from __future__ import annotations

import copy

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

_FAMILY = {"num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 36, "num_attention_heads": 32}
_HEAD = {"vocab_size": 151936, "max_position_embeddings": 40960}

BIG_BASES = {
    "Qwen3-4B": {**_FAMILY, **_HEAD, "hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True},
    "Qwen3-8B": {**_FAMILY, **_HEAD, "hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False},
}


def small_config(vocab_size: int = 4096) -> Qwen3Config:
    """Four layers of width 256: enough that matrix products, not Python, take the time on a CPU."""
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )


def build_model(
    config: Qwen3Config, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> Qwen3ForCausalLM:
    """Made where it will live, in the dtype it will have: a base of 8B would not fit the host's memory twice."""
    default = torch.get_default_dtype()
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            # A copy: models that share a configuration share its choice of attention too.
            return Qwen3ForCausalLM(copy.deepcopy(config)).eval()
        finally:
            torch.set_default_dtype(default)
