"""What the engine knows about architectures: which it would compute wrongly, and which of their layers it adapts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from trainer.engine.attention import UnsupportedArchitecture
from trainer.engine.text_part import text_config, text_linears, text_part
from wire.engine import LoraConfig
from wire.errors import InvalidRequest

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

# Embeddings that multiply what they looked up, as transformers calls those of all families.
_SCALED_EMBEDDINGS = "ScaledWordEmbedding"

# Modules whose linear layers bring tokens together, by their paths; all others inside of a layer are of its MLP.
_TOKEN_MIXER = re.compile("attn|attention|mixer|mamba")


def refuse_unsupported(config: PreTrainedConfig) -> None:
    """Raises UnsupportedArchitecture, naming what is not supported."""
    name = config.model_type
    if config.is_encoder_decoder:
        raise UnsupportedArchitecture(f"{name} is an encoder-decoder, this trainer knows decoders")
    for term, neutral in _LOGIT_TERMS.items():
        value = getattr(config.get_text_config(), term, None)
        if value is not None and value != neutral:
            raise UnsupportedArchitecture(f"{name} changes its logits by {term} = {value}, which is not computed here")


def known_sharing(model: PreTrainedModel) -> Sharing:
    """What an architecture allows, as far as its configuration says; unknown kinds of layers share nothing.

    Nor does a model whose rotary angles depend on the longest sequence of a pass: the others would get its angles.
    """
    config = text_config(model)
    if "longrope" in _rope_types(config):
        return Sharing.NOTHING
    kinds = set(getattr(config, "layer_types", None) or ())
    mixed = kinds & _LINEAR_MIXERS.keys()
    if kinds <= _ATTENTION_LAYERS | mixed and bool(mixed) == bool(linear_mixers(model)):
        return Sharing.PREFIXES
    return Sharing.NOTHING


def decoder_layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """From the first to the last, as transformers marks those that can be computed again in a backward pass. Not those
    of a tower, which has none."""
    return [module for module in text_part(model).modules() if isinstance(module, GradientCheckpointingLayer)]


def linear_mixers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The mixers of layers that are not attention, where they are known."""
    names = tuple(f".{name}" for name in _LINEAR_MIXERS.values())
    return [module for name, module in model.named_modules() if name.endswith(names)]


@dataclass(frozen=True, slots=True)
class Adaptable:
    """Names (last components) of the linear layers that LoRA may adapt, by part of the model."""

    attn: frozenset[str]
    mlp: frozenset[str]
    unembed: frozenset[str]

    @classmethod
    def of(cls, model: PreTrainedModel) -> Adaptable:
        """All of the text part but routers. Raises UnsupportedArchitecture if there are none inside of the layers."""
        head = model.get_output_embeddings()
        linears = text_linears(model)
        inside = {name for name, module in linears.items() if module is not head and _last(name) not in _ROUTERS}
        if not inside:
            raise UnsupportedArchitecture(f"{model.config.model_type} has no linear layers that LoRA could adapt")
        attn = {name for name in inside if _TOKEN_MIXER.search(name.rpartition(".")[0])}
        unembed = {name for name, module in linears.items() if module is head}
        return cls(*(frozenset(map(_last, names)) for names in (attn, inside - attn, unembed)))

    def whole(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Parts of which LoRA leaves nothing out but routers. Experts that are one parameter together are left out."""
        has_fused = any("expert" in name and parameter.dim() > 2 for name, parameter in model.named_parameters())
        mlp = frozenset[str]() if has_fused else self.mlp
        return tuple(part for part, names in (("attn", self.attn), ("mlp", mlp), ("unembed", self.unembed)) if names)

    @property
    def layers(self) -> dict[str, list[str]]:
        """The names, sorted, by part; of parts that have some."""
        parts = {"attn": self.attn, "mlp": self.mlp, "unembed": self.unembed}
        return {part: sorted(names) for part, names in parts.items() if names}

    def chosen(self, lora: LoraConfig) -> list[str]:
        """Names of what this configuration adapts, sorted. Raises InvalidRequest for a part that the model lacks, or
        that cannot be adapted by itself."""
        parts = {"attn": self.attn, "mlp": self.mlp, "unembed": self.unembed}
        names = frozenset[str]().union(*(parts[part] for part in lora.parts))
        others = frozenset[str]().union(*(parts[part] for part in parts.keys() - set(lora.parts)))
        if not names or (lora.unembed and not self.unembed):
            raise InvalidRequest(f"this base has no linear layers for LoRA on {' and '.join(lora.parts)}")
        if shared := sorted(names & others):
            raise InvalidRequest(f"this base has layers called {shared[0]} in parts that are adapted and in others")
        return sorted(names)


def _last(path: str) -> str:
    return path.rpartition(".")[2]


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


def vocabulary_modules(model: PreTrainedModel) -> tuple[torch.nn.Embedding | None, torch.nn.Linear | None]:
    """Embedding and unembedding, each where its weight can be looked up or multiplied by blocks of rows.

    Embeddings of other classes than these may do anything with their ids. Theirs stay whole, and so does an unembedding
    that is tied to one.
    """
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    by_rows = isinstance(embedding, torch.nn.Embedding) and embedding.max_norm is None and _looks_rows_up(embedding)
    is_linear = isinstance(head, torch.nn.Linear) and getattr(head, "bias", None) is None
    is_tied = is_linear and head.weight is embedding.weight
    return embedding if by_rows else None, head if is_linear and (by_rows or not is_tied) else None


def _looks_rows_up(embedding: torch.nn.Embedding) -> bool:
    kind = type(embedding)
    return kind.forward is torch.nn.Embedding.forward or kind.__name__.endswith(_SCALED_EMBEDDINGS)
