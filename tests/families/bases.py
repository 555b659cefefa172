"""Bases of a few random weights under the tokenizers and chat templates of known families."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TOKENIZERS = Path(".headway-cache/tokenizers")
"""Of `python -m tests.families.download`, which `make test-slow` runs."""
_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "initializer_range": 0.15,
}


@dataclass(frozen=True)
class Family:
    """body: the config and model classes, of the family where transformers has one that the local sampler serves.
    end_tokens: of the family's generation config. template: of TRL's collection, where the package has none, or an
    older one without tools. calls_are_shown, tools_are_shown: what the template does."""

    name: str
    body: tuple[Any, Any]
    end_tokens: Sequence[str]
    template: str | None = None
    tools_are_shown: bool = True
    calls_are_shown: bool = True


FAMILIES = {
    family.name: family
    for family in (
        Family("qwen3", (Qwen3Config, Qwen3ForCausalLM), ["<|im_end|>", "<|endoftext|>"]),
        Family("llama3_1", (LlamaConfig, LlamaForCausalLM), ["<|eot_id|>", "<|end_of_text|>"], "llama3_1"),
        Family("deepseek_v3", (LlamaConfig, LlamaForCausalLM), ["<｜end▁of▁sentence｜>"], tools_are_shown=False),
        Family(
            "gemma3",
            (Gemma3TextConfig, Gemma3ForCausalLM),
            ["<end_of_turn>", "<eos>"],
            tools_are_shown=False,
            calls_are_shown=False,
        ),
        Family("gptoss", (LlamaConfig, LlamaForCausalLM), ["<|return|>", "<|endoftext|>", "<|call|>"], "gptoss"),
    )
}


def tokenizer_of(family: Family) -> PreTrainedTokenizerFast:
    """The family's tokenizer and chat template."""
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(TOKENIZERS / family.name)
    if family.template:
        tokenizer.chat_template = (files("trl") / "chat_templates" / f"{family.template}.jinja").read_text()
    return tokenizer


def save_family(family: Family, path: Path) -> None:
    """A base of random weights, the same each time."""
    torch.manual_seed(7)
    tokenizer = tokenizer_of(family)
    end_ids = [tokenizer.convert_tokens_to_ids(token) for token in family.end_tokens]
    make_config, make_model = family.body
    config = make_config(vocab_size=len(tokenizer) + 7, eos_token_id=end_ids, pad_token_id=end_ids[-1], **_SHAPE)
    model = make_model(config)
    model.generation_config = GenerationConfig(eos_token_id=end_ids)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
