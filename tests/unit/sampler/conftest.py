"""A tiny random Qwen3 with a byte-level tokenizer and a ChatML template, adapters for it, and a backend on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from sampler.backends.local import LocalBackend, LocalSettings
from tests.ports.sampler_backends import Answer, ask_backend

TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text()
ALL_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "all-targets": {"r": 4, "lora_alpha": 8, "target_modules": ALL_TARGETS},
    "attention-only": {"r": 8, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]},
    "rslora-and-head": {"r": 3, "lora_alpha": 5, "target_modules": ["down_proj", "lm_head"], "use_rslora": True},
}


Ask = Callable[..., Awaitable[Answer]]


def build_tokenizer() -> PreTrainedTokenizerFast:
    vocab = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab["us"] = len(vocab)
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=[("u", "s")]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(t, special=True) for t in ("<|pad|>", "<|im_start|>", "<|im_end|>")])
    bpe.add_tokens([AddedToken(t, special=False) for t in ("<think>", "</think>", "<tool_call>", "</tool_call>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|pad|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def save_base(path: Path, **config: Any) -> None:
    torch.manual_seed(7)
    tokenizer = build_tokenizer()
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer) + 3,  # a few ids without a token, as real bases have
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.15,
        "tie_word_embeddings": False,
    }
    Qwen3ForCausalLM(Qwen3Config(**shape | config)).save_pretrained(path)
    tokenizer.save_pretrained(path)


def save_adapter(base: Path, path: Path, seed: int, **config: Any) -> None:
    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **config))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(str(path), save_embedding_layers=False)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    save_base(path)
    return path


@pytest.fixture(scope="session")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    for seed, (name, config) in enumerate(ADAPTERS.items()):
        save_adapter(base, folder / name, seed, **config)
    return {name: folder / name for name in ADAPTERS}


@pytest.fixture(scope="session")
def reference(base: Path, adapters: dict[str, Path]) -> Callable[[str], Any]:
    """Transformers' own model with PEFT's own adapter on it (any other name: the base alone)."""

    @cache
    def model(adapter: str) -> Any:
        plain = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").eval()
        return PeftModel.from_pretrained(plain, str(adapters[adapter])).eval() if adapter in adapters else plain

    return model


OpenBackend = Callable[..., LocalBackend]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def open_backend(base: Path, adapters: dict[str, Path]) -> AsyncIterator[OpenBackend]:
    """Backends with all adapters loaded, and `base` for the base weights; closed at the end."""
    opened: list[LocalBackend] = []

    def open_one(path: Path = base, **settings: Any) -> LocalBackend:
        backend = LocalBackend(str(path), LocalSettings(**settings))
        opened.append(backend)
        backend.load_adapter("base", None)
        if path == base:
            for name, folder in adapters.items():
                backend.load_adapter(name, folder)
        return backend

    yield open_one
    await asyncio.gather(*(backend.close() for backend in opened))


@pytest.fixture(scope="session")
def backend(open_backend: OpenBackend) -> LocalBackend:
    return open_backend(seed=0)


@pytest.fixture(scope="session")
def ask_on() -> Ask:
    return ask_backend


@pytest.fixture(scope="session")
def ask(backend: LocalBackend) -> Ask:
    async def ask_default(prompt: list[int], **params: Any) -> Answer:
        return await ask_backend(backend, prompt, **params)

    return ask_default
