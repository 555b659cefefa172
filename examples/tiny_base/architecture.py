"""The architecture of both small bases: a Qwen3 of a few hundred thousand weights, with random ones at first."""

from __future__ import annotations

from typing import Protocol

from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM


class Shape(Protocol):
    """What of a base's config decides its shape."""

    @property
    def num_layers(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_key_value_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def context_length(self) -> int: ...


def make_model(config: Shape, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Untrained, drawn from torch's generator."""
    architecture = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.context_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.05,
        dtype="float32",
    )
    return Qwen3ForCausalLM(architecture)
