"""What the engine knows about architectures: which it would compute wrongly, and which of their layers it adapts."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from trainer.attention import UnsupportedArchitecture

# Changes of the final logits, with the value that means "none". The one-pass head knows none of them.
_LOGIT_TERMS = {"final_logit_softcapping": None, "logits_scaling": 1.0, "logit_scale": 1.0, "lm_head_multiplier": 1.0}

# A mixer that carries a state from token to token needs more than the right attention.
_KNOWN_LAYER_TYPES = {"full_attention", "sliding_attention"}

# Where a linear layer routes tokens to experts, an adapter would change which expert is asked.
_ROUTERS = {"gate", "router", "shared_expert_gate"}


def refuse_unsupported(config: PreTrainedConfig) -> None:
    """Raises UnsupportedArchitecture, naming what is in the way."""
    name = config.model_type
    if config.is_encoder_decoder:
        raise UnsupportedArchitecture(f"{name} is an encoder-decoder, this trainer knows decoders")
    for layer_type in getattr(config, "layer_types", None) or ():
        if layer_type not in _KNOWN_LAYER_TYPES:
            raise UnsupportedArchitecture(f"{name} has layers of type {layer_type}, which cannot be packed yet")
    for term, neutral in _LOGIT_TERMS.items():
        value = getattr(config, term, None)
        if value is not None and value != neutral:
            raise UnsupportedArchitecture(f"{name} changes its logits by {term} = {value}, which is not computed here")


def adapted_modules(model: PreTrainedModel) -> list[str]:
    """Names (last components, sorted) of the linear layers that get LoRA: all but the unembedding and routers."""
    unembedding = model.get_output_embeddings()
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not unembedding
    }
    return sorted(names - _ROUTERS)


def unembedding_weight(model: PreTrainedModel) -> torch.Tensor:
    """weight_VD of the unembedding. Raises UnsupportedArchitecture unless it is a linear layer without bias."""
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or getattr(head, "bias", None) is not None:
        raise UnsupportedArchitecture(f"{model.config.model_type}: its unembedding is no linear layer without bias")
    return head.weight.detach()
