"""The base that all contenders train: a random Qwen3 of 4.2 million parameters, in a folder that each of them loads."""

from __future__ import annotations

import copy
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config

from bench.models import build_model, small_config

CONTEXT = 32768
_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def base_config() -> Qwen3Config:
    """Four layers of width 256, vocabulary 4096, room for the long batch."""
    config = copy.deepcopy(small_config())
    config.max_position_embeddings = CONTEXT
    return config


def make_base(folder: Path, config: Qwen3Config) -> None:
    """Weights of seed 0 as safetensors, and a byte-level tokenizer, for services do not start without one."""
    build_model(config).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(f"<{number}>" for number in range(config.vocab_size - len(alphabet)))]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=words[-2], eos_token=words[-1])
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)
