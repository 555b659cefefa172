"""How long a gradient pass takes, from counted work and what a machine does in a second.

    base linears   2·P forward + 2·P backward a token, a layer (P: its weights; gradients of activations only)
    LoRA           2·L forward + 4·L backward a token, a layer
    attention      4·D forward + 8·D backward a layer, for a token and each that it sees (D = heads · head size)
    unembedding    4·V·H a scored token, all of it in the forward
    gathers        (W − 1)/W of each layer's bytes to every rank, once a forward and once a backward; of the embedding
                   and of the unembedding, once a forward
    exchange       a rank gets its slice of each shard's gradient that others have, then the slices of the sum

Where layers are computed twice, their second forward needs no gather: the backward has made it. Ranks agree after each
part of a turn, so that the slowest decides each. The first layer's gather is waited for; each later one comes while the
layer before it computes, where the machine can do both at a time. So it is with blocks of the unembedding; those of the
embedding, with which next to nothing is computed, are waited for.

For dense bases: of experts, every one is counted.
"""

# W ranks, K shards

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cli.sizing.base_counts import BaseCounts, numel
from trainer.engine.kernels import KERNELS
from trainer.engine.prefix_tree import build_tree
from trainer.engine.ranks import Alone
from trainer.engine.turns import Turn, turns_of
from trainer.engine.unembedding import blocks_of
from wire.datums import Datum
from wire.plans import Plan

_LORA_BYTES = 4
_PARTS_OF_A_TURN = 4
"""After which ranks agree: before, forward, loss, backward."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What one rank does. flops_per_s: that it reaches on a layer. gather_bytes_per_s, exchange_bytes_per_s: that it
    receives. vote_s: of an agreement. overlaps: whether it receives while it computes."""

    flops_per_s: float
    gather_bytes_per_s: float
    exchange_bytes_per_s: float
    vote_s: float = 0.0
    overlaps: bool = True


H200 = Machine(flops_per_s=0.45 * 790e12, gather_bytes_per_s=450e9, exchange_bytes_per_s=450e9, vote_s=1e-3)
"""45 % of the bfloat16 product that was measured, and one direction of its NVLink."""


@dataclass(frozen=True, slots=True)
class TurnWork:
    """Of one rank in one turn. pairs: of a token and one that it sees, itself included."""

    tokens: int
    pairs: int
    predictions: int

    @classmethod
    def of(cls, turn: Turn | None, min_shared: int) -> TurnWork:
        """Nothing, for a rank without a micro-batch. min_shared: of the plan's kernel."""
        if turn is None:
            return cls(0, 0, 0)
        tree = build_tree([datum.model_input for datum in turn.datums], min_shared)
        return cls(tree.num_tokens, int((tree.depths_T + 1).sum()), sum(datum.num_scored for datum in turn.datums))


@dataclass(frozen=True, slots=True)
class PassCost:
    """Seconds of a pass. gather_s: in which nothing is computed, because layers are waited for. gathered_bytes,
    exchanged_bytes: that a rank receives; they are the least that these collectives can move."""

    forward_s: float
    backward_s: float
    gather_s: float
    exchange_s: float
    vote_s: float
    gathered_bytes: float
    exchanged_bytes: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.forward_s + self.backward_s + self.gather_s + self.exchange_s + self.vote_s


def work_of(plan: Plan, datums: Sequence[Datum], ranks: int) -> list[list[TurnWork]]:
    """What each rank does in each turn of a plan."""
    of_ranks = [turns_of(plan, datums, _Rank(rank, ranks)) for rank in range(ranks)]
    min_shared = KERNELS[plan.kernel].min_shared
    return [[TurnWork.of(turn, min_shared) for turn in turns] for turns in zip(*of_ranks, strict=True)]


def even_work(tokens: int, length: int, turns: int, ranks: int) -> list[list[TurnWork]]:
    """As many turns of so many tokens on each rank, in sequences of one length, all of them scored."""
    work = TurnWork(tokens, tokens * (length + 1) // 2, tokens)
    return [[work] * ranks for _ in range(turns)]


def pass_cost(
    counts: BaseCounts,
    lora_rank: int,
    work: Sequence[Sequence[TurnWork]],
    num_shards: int,
    machine: Machine,
    *,
    recompute: bool,
) -> PassCost:
    """Of a pass in these turns of all ranks."""
    ranks, cost = len(work[0]), PassCost(0, 0, 0, 0, 0, 0, 0)
    parameter_s = counts.weight_bytes * (ranks - 1) / ranks / machine.gather_bytes_per_s
    layer_s, blocks = counts.largest_layer * parameter_s, len(blocks_of(counts.unembedding[0]))
    for of_ranks in work:
        flops = [_flops(counts, lora_rank, each) for each in of_ranks]
        forward_s = max(each.forward for each in flops) / machine.flops_per_s
        backward_s = max(each.backward + recompute * each.forward for each in flops) / machine.flops_per_s
        head_s = max(each.head for each in flops) / machine.flops_per_s
        waits = [
            counts.embedding_gathered * parameter_s,
            _waited_s(forward_s, layer_s, len(counts.layers), machine.overlaps),
            _waited_s(head_s, counts.unembedding_gathered * parameter_s / blocks, blocks, machine.overlaps),
            _waited_s(backward_s, layer_s, len(counts.layers), machine.overlaps),
        ]
        cost = replace(
            cost,
            forward_s=cost.forward_s + forward_s + head_s,
            backward_s=cost.backward_s + backward_s,
            gather_s=cost.gather_s + sum(waits),
            vote_s=cost.vote_s + (_PARTS_OF_A_TURN * machine.vote_s if ranks > 1 else 0.0),
        )
    gathered = 2 * counts.layer_parameters(1) + counts.embedding_gathered + counts.unembedding_gathered
    exchanged = exchanged_bytes(counts.lora_parameters(lora_rank), num_shards, ranks)
    return replace(
        cost,
        exchange_s=exchanged / machine.exchange_bytes_per_s,
        gathered_bytes=len(work) * gathered * counts.weight_bytes * (ranks - 1) / ranks,
        exchanged_bytes=exchanged,
    )


def exchanged_bytes(parameters: int, num_shards: int, ranks: int) -> float:
    """That the rank with the fewest shards receives: the others' shards of its slice, and the others' slices of the
    sum. Less cannot be, if shards are to be added in their order."""
    fewest = num_shards // ranks
    return _LORA_BYTES * parameters / ranks * (num_shards - fewest + ranks - 1) if ranks > 1 else 0.0


@dataclass(frozen=True, slots=True)
class _Flops:
    forward: float
    backward: float
    head: float


def _flops(counts: BaseCounts, lora_rank: int, work: TurnWork) -> _Flops:
    linears = sum(numel(shape) for layer in counts.layers for shape in layer if len(shape) > 1)
    adapter = counts.lora_parameters(lora_rank)
    attention = counts.attention_width * len(counts.layers) * work.pairs
    return _Flops(
        forward=2 * (linears + adapter) * work.tokens + 4 * attention,
        backward=(2 * linears + 4 * adapter) * work.tokens + 8 * attention,
        head=4 * numel(counts.unembedding) * work.predictions,
    )


def _waited_s(compute_s: float, part_s: float, num_parts: int, overlaps: bool) -> float:
    """How much longer the layers of a forward or backward, or the blocks of the head, take for their gathers."""
    if not overlaps:
        return num_parts * part_s
    return part_s + (num_parts - 1) * max(0.0, part_s - compute_s / num_parts)


class _Rank(Alone):
    """A place among ranks that are not there."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size  # pyright: ignore[reportIncompatibleVariableOverride]
