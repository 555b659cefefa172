"""What one rank of a trainer holds, and the longest trajectory that it can train."""

from __future__ import annotations

from dataclasses import dataclass

from cli.sizing.base_counts import BaseCounts

_LORA_BYTES = 4
_FEATURE_BYTES = 1 << 30
"""`trainer.engine.vision.sight.MAX_FEATURE_BYTES`, which is not imported for a constant: it brings torch."""
_SESSION_BUFFERS = 4
"""Of a model: weights, gradient, two moments."""


@dataclass(frozen=True, slots=True)
class TrainerMemory:
    """Bytes of one rank of `ranks`, on a GPU of `gpu`.

    base: its part of layers, embedding and unembedding; norms, and what reads pictures, whole. gathered: what comes
    together from all ranks. model: weights, gradient and moments of one model. partial_sums: the gradient of the shard
    that is computed, and of those that were. features: room for what was read of pictures.
    """

    ranks: int
    gpu: int
    base: int
    gathered: int
    model: int
    partial_sums: int
    features: int
    counts: BaseCounts

    @property
    def left(self) -> int:
        """For activations and further models; negative where the base does not fit."""
        return self.gpu - self.base - self.gathered - self.model - self.partial_sums - self.features

    @property
    def pass_tokens(self) -> int:
        """The largest pass that keeps all activations: a trainer gives them half of what is free."""
        return self.counts.activations.tokens_within(self.left / 2, recompute=False)

    @property
    def longest(self) -> int:
        """Tokens of the longest trajectory, whose layers are computed twice."""
        return self.counts.activations.tokens_within(self.left, recompute=True)


def trainer_memory(counts: BaseCounts, *, ranks: int, rank: int, num_shards: int, gpu: int) -> TrainerMemory:
    """rank: of the adapter. num_shards: into which a batch is divided at most."""
    adapter = counts.lora_parameters(rank) * _LORA_BYTES
    # One rank adds each shard to a sum; several keep theirs until all are there.
    kept = 1 if ranks == 1 else -(-num_shards // ranks)
    return TrainerMemory(
        ranks=ranks,
        gpu=gpu,
        base=counts.rank_parameters(ranks) * counts.weight_bytes,
        gathered=counts.gathered_parameters() * counts.weight_bytes if ranks > 1 else 0,
        model=_SESSION_BUFFERS * adapter,
        partial_sums=(1 + kept) * adapter,
        features=_FEATURE_BYTES if counts.tower else 0,
        counts=counts,
    )
