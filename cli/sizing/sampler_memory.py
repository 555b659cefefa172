"""What one GPU of a sampler holds whose vLLM splits the base over several, and how many keys and values beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cli.sizing.base_counts import BaseCounts

_UTILIZATION = 0.9
"""Of a GPU that vLLM takes (`--gpu-memory-utilization`)."""


@dataclass(frozen=True, slots=True)
class SamplerMemory:
    """Bytes of one rank of `ranks`. base: its part of the weights. adapters: slots for adapters in one batch.
    key_values: of one token, of the heads that are on a rank. cached_tokens: whose keys and values fit beside."""

    ranks: int
    gpu: int
    base: int
    adapters: int
    key_values: int

    @property
    def cached_tokens(self) -> int:
        """0 where the base does not fit. vLLM's own buffers, some GB, go off that."""
        return max(0, int((_UTILIZATION * self.gpu - self.base - self.adapters) // self.key_values))


def sampler_memory(counts: BaseCounts, *, ranks: int, rank: int, slots: int, gpu: int) -> SamplerMemory:
    """rank: for which vLLM keeps `slots` adapters, of the base's precision, the unembedding's among them."""
    vocab, hidden = counts.unembedding
    adapter = counts.lora_parameters(rank, ranks) + rank * (vocab + hidden)
    return SamplerMemory(
        ranks=ranks,
        gpu=gpu,
        base=counts.num_parameters * counts.weight_bytes // ranks,
        adapters=slots * adapter * counts.weight_bytes,
        key_values=counts.key_values * counts.weight_bytes // min(ranks, counts.key_heads),
    )


def smallest(sizes: Sequence[SamplerMemory], tokens: int) -> SamplerMemory | None:
    """The first that caches so many tokens."""
    return next((size for size in sizes if size.cached_tokens >= tokens), None)
