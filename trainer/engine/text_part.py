"""The part of a base that reads tokens: all of a language model, and of a base that sees what it has beside its tower.

The engine calls it, replaces its attention, adapts its layers and recomputes them. A tower stays as transformers made
it.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig, PreTrainedModel


def text_config(model: PreTrainedModel) -> PreTrainedConfig:
    """The configuration with the vocabulary, the heads and the context."""
    return model.config.get_text_config()


def text_part(model: PreTrainedModel) -> torch.nn.Module:
    """The backbone: embedding and layers, without the unembedding."""
    return model.base_model if text_config(model) is model.config else model.get_decoder()


def text_linears(model: PreTrainedModel) -> dict[str, torch.nn.Linear]:
    """By their paths in the model; all but those of a tower."""
    beside = tuple(f"{name}." for name in tower_names(model))
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return {name: module for name, module in linears.items() if not (beside and name.startswith(beside))}


def tower_names(model: PreTrainedModel) -> list[str]:
    """Paths of the modules beside the text part; none of a language model."""
    if text_config(model) is model.config:
        return []
    part, whole = text_part(model), model.base_model
    (prefix,) = [name for name, module in model.named_modules() if module is whole]
    return [f"{prefix}.{name}".strip(".") for name, module in whole.named_children() if module is not part]


def attend_by(model: PreTrainedModel, implementation: str) -> None:
    """Have the text part compute attention by one of transformers' implementations, or by a registered one."""
    alone = text_config(model) is model.config
    model.set_attn_implementation(implementation if alone else {"text_config": implementation})
