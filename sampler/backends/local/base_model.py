"""Loading a base model for the local sampler, and refusing by name what it would compute wrongly."""

# B = 1 row, T tokens, V vocabulary

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)

from sampler.backends.local.attention import IMPLEMENTATION, UnsupportedBase, register
from sampler.backends.local.kv_cache import CacheShape
from wire.picture_rule import FAMILIES

_PROBES, _ENOUGH_S = 3, 0.1
_LAYER_TYPES = {"full_attention", "sliding_attention"}
# These frequencies depend on the longest sequence of a batch, so other requests would change a request's logprobs.
_BATCH_DEPENDENT_ROPE = {"dynamic", "longrope"}


def load_base(base: str, dtype: torch.dtype) -> PreTrainedModel:
    """The base in eval mode, with its tower where it has one. Raises UnsupportedBase."""
    register()
    has_tower = AutoConfig.from_pretrained(base).model_type in FAMILIES
    kind: Any = AutoModelForImageTextToText if has_tower else AutoModelForCausalLM
    model: PreTrainedModel = kind.from_pretrained(base, dtype=dtype, attn_implementation="sdpa")
    _refuse_unsupported(model)
    return model.eval().requires_grad_(False)


def use_slot_attention(model: PreTrainedModel) -> None:
    """From here on every forward of the decoder needs a slot layout. A vision tower keeps its attention."""
    model.set_attn_implementation(IMPLEMENTATION if text_part(model) is model else {"text_config": IMPLEMENTATION})


def text_part(model: PreTrainedModel) -> nn.Module:
    """What adapters adapt, but for the head: the decoder of a base that sees, and all of another."""
    return model if model.config is model.config.get_text_config() else model.get_decoder()


def cache_shape(config: PreTrainedConfig, dtype: torch.dtype, max_tokens: int) -> CacheShape:
    """The cache that a base of this text config needs."""
    num_heads: int = config.num_attention_heads
    return CacheShape(
        num_layers=config.num_hidden_layers,
        num_key_heads=getattr(config, "num_key_value_heads", None) or num_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // num_heads,
        dtype=dtype,
        max_tokens=max_tokens,
    )


def plain_logits(model: PreTrainedModel, token_ids: list[int], **inputs: Tensor) -> Tensor:
    """float32 [T, V] of transformers' own forward, to hold the packed one against."""
    with torch.inference_mode():
        output: Any = model(input_ids=torch.tensor([token_ids]), **inputs, use_cache=False)
    return output.logits[0].float()


def steps_per_s(step: Callable[[], object]) -> float:
    """How often a second it runs; the best of a few, on a busy machine."""
    best_s, began_at = math.inf, time.perf_counter()
    for _ in range(_PROBES):
        started = time.perf_counter()
        step()
        best_s = min(best_s, time.perf_counter() - started)
        if time.perf_counter() - began_at > _ENOUGH_S:
            break
    return 1 / best_s


def _refuse_unsupported(model: PreTrainedModel) -> None:
    config = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False):
        raise UnsupportedBase(f"{config.model_type} takes no other attention than its own")
    unknown = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if unknown:
        raise UnsupportedBase(f"{config.model_type} has layers of type {', '.join(sorted(unknown))}")
    for rope_type in _rope_types(getattr(config, "rope_parameters", None)):
        if rope_type in _BATCH_DEPENDENT_ROPE:
            raise UnsupportedBase(f"{config.model_type} has {rope_type} rope scaling, which depends on the batch")


def _rope_types(parameters: Any) -> Iterator[str]:
    """The rope type, or those of each layer type."""
    if isinstance(parameters, dict):
        yield str(parameters.get("rope_type", "default"))
        for value in parameters.values():
            yield from _rope_types(value)
