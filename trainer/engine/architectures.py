"""What the engine knows about architectures: which it would compute wrongly, and which of their layers it adapts."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from trainer.engine.attention import UnsupportedArchitecture

# Changes of the final logits, with the value that means "none". The one-pass head knows none of them.
_LOGIT_TERMS = {"final_logit_softcapping": None, "logits_scaling": 1.0, "logit_scale": 1.0, "lm_head_multiplier": 1.0}


class Sharing(StrEnum):
    """How sequences go through a base model. prefixes: in one pass, what they have in common once. nothing: one a
    pass, so that only the turns of a trajectory are merged; right for any causal model."""

    PREFIXES = "prefixes"
    NOTHING = "nothing"


# Layers whose only way from token to token is attention, where the layout says what is visible.
_ATTENTION_LAYERS = {"full_attention", "sliding_attention"}

# Layers with a mixer that carries a state from token to token, and under which name they have it.
_LINEAR_MIXERS = {"linear_attention": "linear_attn"}

# Where a linear layer routes tokens to experts, an adapter would change which expert is asked.
_ROUTERS = {"gate", "router", "shared_expert_gate"}


def refuse_unsupported(config: PreTrainedConfig) -> None:
    """Raises UnsupportedArchitecture, naming what is not supported."""
    name = config.model_type
    if config.is_encoder_decoder:
        raise UnsupportedArchitecture(f"{name} is an encoder-decoder, this trainer knows decoders")
    for term, neutral in _LOGIT_TERMS.items():
        value = getattr(config, term, None)
        if value is not None and value != neutral:
            raise UnsupportedArchitecture(f"{name} changes its logits by {term} = {value}, which is not computed here")


def known_sharing(model: PreTrainedModel) -> Sharing:
    """What an architecture allows, as far as its configuration says; unknown kinds of layers share nothing.

    Nor does a model whose rotary angles depend on the longest sequence of a pass: the others would get its angles.
    """
    if "longrope" in _rope_types(model.config):
        return Sharing.NOTHING
    kinds = set(getattr(model.config, "layer_types", None) or ())
    mixed = kinds & _LINEAR_MIXERS.keys()
    if kinds <= _ATTENTION_LAYERS | mixed and bool(mixed) == bool(linear_mixers(model)):
        return Sharing.PREFIXES
    return Sharing.NOTHING


def linear_mixers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The mixers of layers that are not attention, where they are known."""
    names = tuple(f".{name}" for name in _LINEAR_MIXERS.values())
    return [module for name, module in model.named_modules() if name.endswith(names)]


def adapted_modules(model: PreTrainedModel) -> list[str]:
    """Names (last components, sorted) of the linear layers that get LoRA: all but the unembedding and routers.

    Raises UnsupportedArchitecture if there are none.
    """
    unembedding = model.get_output_embeddings()
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not unembedding
    }
    if not names - _ROUTERS:
        raise UnsupportedArchitecture(f"{model.config.model_type} has no linear layers that LoRA could adapt")
    return sorted(names - _ROUTERS)


def _rope_types(config: PreTrainedConfig) -> set[str]:
    """Of all layers; a configuration has one set of parameters, or one for each kind of layer."""
    parameters: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return {str(each.get("rope_type")) for each in (parameters, *nested)}


def unembedding_weight(model: PreTrainedModel) -> torch.Tensor:
    """weight_VD of the unembedding. Raises UnsupportedArchitecture unless it is a linear layer without bias."""
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or getattr(head, "bias", None) is not None:
        raise UnsupportedArchitecture(f"{model.config.model_type}: its unembedding is no linear layer without bias")
    return head.weight.detach()
