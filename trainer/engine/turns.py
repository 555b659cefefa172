"""Which micro-batches of a plan a rank computes, and when.

Every rank takes equally many turns; one that has no micro-batch left takes part in what all ranks must do together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from trainer.engine.ranks import Ranks
from wire.datums import Datum
from wire.plans import Plan


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One micro-batch. number: its place in the plan, over all shards. indices: of its datums in the call."""

    number: int
    shard: int
    indices: Sequence[int]
    datums: Sequence[Datum]
    opens_shard: bool = False
    closes_shard: bool = False


def turns_of(plan: Plan, datums: Sequence[Datum], ranks: Ranks) -> list[Turn | None]:
    """The turns of this rank, None where it has nothing to compute."""
    assert np.array_equal(np.sort(plan.order_D), np.arange(len(datums))), "the plan is of another batch"
    of_ranks = [
        [turn for shard in shards for turn in _turns_of_shard(plan, shard, datums)]
        for shards in shards_of(len(plan.shards), ranks.size)
    ]
    mine = of_ranks[ranks.rank]
    return [*mine, *[None] * (max(map(len, of_ranks)) - len(mine))]


def shards_of(num_shards: int, num_ranks: int) -> list[range]:
    """Which shards each rank computes: shards cost about the same, so that their numbers are what is divided."""
    edges = [rank * num_shards // num_ranks for rank in range(num_ranks + 1)]
    return [range(start, stop) for start, stop in pairwise(edges)]


def _turns_of_shard(plan: Plan, shard: int, datums: Sequence[Datum]) -> list[Turn]:
    micro_batches = plan.shards[shard]
    before = sum(plan.shard_sizes_S[:shard].tolist())
    return [
        Turn(
            before + place,
            shard,
            micro_batch.tolist(),
            [datums[index] for index in micro_batch.tolist()],
            opens_shard=place == 0,
            closes_shard=place == len(micro_batches) - 1,
        )
        for place, micro_batch in enumerate(micro_batches)
    ]
