"""Over how many ranks vLLM can split a base: each holds some of its heads and of its MLP's columns, with the keys and
values of these heads, and they add up what they computed twice a layer.

An adapter is split as the layers that it is on, but one of its two matrices is whole on every rank: A before a layer
whose outputs are split, B after one whose inputs are. (vLLM's `--fully-sharded-loras` splits these by the adapter's
rank, for more exchanges.) What the head's adapters need is whole on every rank in any case.
"""

from __future__ import annotations

from typing import Any


def check_ranks(config: Any, ranks: int) -> None:
    """Raises ValueError, naming what can be had, where vLLM does not divide a base of this (text) configuration by so
    many ranks. transformers is not asked for more than the numbers of heads; the rest vLLM says itself."""
    heads, keys = _heads(config)
    if heads is not None and not divides(config, ranks):
        possible = ", ".join(str(number) for number in range(1, heads + 1) if divides(config, number))
        raise ValueError(
            f"--tensor-parallel {ranks} does not divide the {heads} attention heads of this {config.model_type}, "
            f"{keys} of them with keys and values of their own; it may be {possible}"
        )


def divides(config: Any, ranks: int) -> bool:
    """Whether each rank gets whole heads of queries, and whole heads of keys and values or a copy of one."""
    heads, keys = _heads(config)
    return heads is None or (heads % ranks == 0 and (keys % ranks == 0 or ranks % keys == 0))


def _heads(config: Any) -> tuple[int | None, int]:
    heads: int | None = getattr(config, "num_attention_heads", None)
    return heads, getattr(config, "num_key_value_heads", None) or heads or 1
