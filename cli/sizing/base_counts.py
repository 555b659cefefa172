"""What was counted of a base, in parameters and bytes; the arithmetic of trainers and samplers begins here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Shape: TypeAlias = tuple[int, ...]

_SPLIT_BY_INPUTS = ("o_proj", "down_proj", "out_proj")
"""Layers that vLLM splits by their inputs; all others by their outputs."""
_BLOCKS_AT_ONCE = 2
"""The one that is used, and the next one."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer that LoRA adapts."""

    name: str
    num_outputs: int
    num_inputs: int

    def lora_parameters(self, rank: int, ranks: int = 1) -> int:
        """Of A and B together; of one of so many tensor parallel ranks: the side that faces the split is divided."""
        inputs, outputs = self.num_inputs, self.num_outputs
        if self.name in _SPLIT_BY_INPUTS:
            return rank * (inputs // ranks + outputs)
        return rank * (inputs + outputs // ranks)


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes of a pass, for each token unless it says else.

    kept: from its forward for its backward. recomputed: of that, where layers keep their inputs alone. transient,
    transient_recomputed: what is alive beside that at the worst moment of forward and backward; where layers are
    computed again, what one of them keeps is part of it. prediction: kept for each scored token. head: what the logits
    of one chunk of tokens take, however many there are.
    """

    kept: float
    recomputed: float
    transient: float
    transient_recomputed: float
    prediction: float
    head: float

    def of_pass(self, num_tokens: float, *, recompute: bool) -> float:
        """Bytes at the worst moment of a pass whose tokens are all scored."""
        each = self.recomputed + self.transient_recomputed if recompute else self.kept + self.transient
        return num_tokens * (each + self.prediction) + self.head

    def tokens_within(self, num_bytes: float, *, recompute: bool) -> int:
        """The longest such pass; 0 where not even the head fits."""
        each = self.of_pass(1, recompute=recompute) - self.head
        return max(0, int((num_bytes - self.head) / each))


@dataclass(frozen=True, slots=True)
class BaseCounts:
    """A base without its weights.

    layers: shapes of the parameters of each decoder layer. vocabulary: of embedding and unembedding, one if they are
    tied, whose rows ranks divide. embedding_gathered, unembedding_gathered: parameters of each that come together for a
    forward pass, block by block. largest_block: of the largest of these blocks. outside: shapes of all others.
    unembedding: [V, D]. weight_bytes: of one number of the base. adapted: the linear layers of an adapter on all
    layers. attention_width: heads of queries times their size. key_values: numbers that a sampler keeps a token, of all
    layers. tower: parameters of what reads pictures, among those outside; 0 for a base that takes text alone.
    """

    name: str
    architecture: str
    context_length: int
    layers: Sequence[Sequence[Shape]]
    vocabulary: Sequence[Shape]
    embedding_gathered: int
    unembedding_gathered: int
    largest_block: int
    outside: Sequence[Shape]
    unembedding: Shape
    weight_bytes: int
    adapted: Sequence[Linear]
    heads: int
    key_heads: int
    attention_width: int
    key_values: int
    activations: Activations
    tower: int = 0

    @property
    def num_parameters(self) -> int:
        """Of the whole base."""
        return self.rank_parameters(1)

    def lora_parameters(self, rank: int, ranks: int = 1) -> int:
        """Of an adapter of this rank on all linear layers; of one of so many tensor parallel ranks."""
        return sum(linear.lora_parameters(rank, ranks) for linear in self.adapted)

    def layer_parameters(self, ranks: int) -> int:
        """Of all layers, of one rank's rows: FSDP gives each rank equally many rows of each parameter, the last ones
        of which may be padding."""
        return sum(_rows(shape, ranks) for layer in self.layers for shape in layer)

    def rank_parameters(self, ranks: int) -> int:
        """Of what one of so many ranks holds: its rows of layers and vocabulary, and all that is outside of them."""
        rows = sum(_rows(shape, ranks) for shape in self.vocabulary)
        return self.layer_parameters(ranks) + rows + sum(map(numel, self.outside))

    def gathered_parameters(self) -> int:
        """Of what comes together at the most: the layer that computes and the next one, or two blocks of the vocabulary
        beside the memory that layers come to."""
        return self.largest_layer + max(self.largest_layer, _BLOCKS_AT_ONCE * self.largest_block)

    @property
    def largest_layer(self) -> int:
        """Parameters of one layer that is gathered."""
        return max(sum(map(numel, layer)) for layer in self.layers)


def numel(shape: Shape) -> int:
    """Numbers in a tensor of this shape."""
    return math.prod(shape)


def _rows(shape: Shape, ranks: int) -> int:
    return -(-shape[0] // ranks) * math.prod(shape[1:])
