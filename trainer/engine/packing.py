"""Datums to micro-batches to packs: what the model computes at once, each token that sequences share once.

The plan depends on the batch, num_substeps and the budget alone, so that a replay with the same three computes the
same GEMM shapes and thus the same bits. Losses are sums: a split changes nothing but rounding.

A pack separates what is computed from what is trained on: it has predictions, and each target of a scored position
reads one of them (`inverse_N`), possibly one that others read too.
"""

# T packed tokens, P predictions, N targets of all datums of the pack (one a scored position, or K), S datums

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import TypeAlias

import numpy as np
import torch

from trainer.engine.attention import PackedLayout
from trainer.engine.kernels import Kernel
from trainer.engine.prefix_tree import build_tree
from trainer.engine.vision.cost import PictureCost
from trainer.engine.vision.embedding import PackedPictures, pack_pictures
from trainer.engine.vision.sight import Sight
from wire.datums import Datum
from wire.extension import common_prefix, lexicographic

_Piece: TypeAlias = tuple[list[Datum], float]
"""Datums that are computed together, and what that costs, in tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """One forward pass over datums. All tensors int64, on the model's device.

    position_ids_T: a token's place in its own sequence, which is its depth in the tree. rows_P, targets_P: the packed
    token whose hidden state predicts, ascending, and the token predicted; no two predictions are the same. inverse_N:
    the prediction that a target reads, datum by datum and position by position. has_several: some position has several
    targets, so that a row of logits is best shared by its predictions. pictures: None where no datum has any.
    """

    datums: Sequence[Datum]
    input_ids_T: torch.Tensor
    position_ids_T: torch.Tensor
    layout: PackedLayout
    rows_P: torch.Tensor
    targets_P: torch.Tensor
    inverse_N: torch.Tensor
    has_several: bool = False
    pictures: PackedPictures | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens that the model computes."""
        return len(self.input_ids_T)


@dataclass(frozen=True, slots=True)
class PassBudget:
    """What a micro-batch may cost, in tokens.

    tokens_per_pair: what attention of one token to one other costs, next to a token's way through the other layers.
    shares: whether sequences of a pack share what they have in common. alone: each datum is a pass of its own.
    pictures: what encoding one costs; None for a base that takes text alone.

    apart_tokens: what groups that have no gradient must cost to be micro-batches of their own, without a backward.

    max_shards: into how many parts a batch is divided, which several ranks can compute. min_shard_tokens: what a part
    must cost to be worth a pass of its own.
    """

    max_tokens: int
    tokens_per_pair: float = 0.0
    shares: bool = True
    alone: bool = False
    pictures: PictureCost | None = None
    apart_tokens: float = math.inf
    max_shards: int = 1
    min_shard_tokens: float = 1.0


def plan_shards(datums: Sequence[Datum], *, num_substeps: int, budget: PassBudget) -> list[list[list[Datum]]]:
    """Micro-batches within the budget, groups in the order of the batch; and shards, runs of micro-batches that cost
    about the same. How many ranks there are decides nothing of it.

    A group is kept whole if the budget allows, else cut where its datums share least; a datum is never split, so one
    over the budget goes alone. Substeps divide the groups, or the trajectories where there are more substeps than
    groups. Groups whose trajectories all have an advantage of 0, or no weight, come last, in micro-batches of their
    own.
    """
    if budget.alone:
        encoding = _encoding(datums, budget)
        pieces = [([datum], _cost(datum, None, budget) + encoding[datum]) for datum in datums]
    else:
        chunks = [
            [unit for group in groups for unit in _units(group, budget)]
            for substep in _substeps(datums, num_substeps)
            for groups in _apart(substep, budget)
        ]
        total = sum(cost for units in chunks for _, cost in units)
        # So much that there is something for each shard, and that no pass is too short.
        share = max(budget.min_shard_tokens, total / budget.max_shards) if budget.max_shards > 1 else math.inf
        pieces = [piece for units in chunks for piece in _fill(units, min(budget.max_tokens, share))]
    return _shards(pieces, budget)


def build_pack(datums: Sequence[Datum], kernel: Kernel, device: torch.device, sight: Sight | None = None) -> Pack:
    """A tree of the datums' sequences, and the predictions that their targets read. sight: of a base that sees; others
    are given no media."""
    sequences = [datum.model_input for datum in datums]
    tree = build_tree(sequences, kernel.min_shared, two_way=sight is not None and sight.rule.two_way)
    paths = zip(datums, tree.paths_S, strict=True)
    rows_N = np.concatenate([datum.per_target(path[datum.positions]) for datum, path in paths])
    targets_N = np.concatenate([datum.per_target(datum.targets) for datum in datums]).astype(np.int64)
    # One number for each pair of row and target.
    pairs_P, inverse_N = np.unique(rows_N * (int(targets_N.max()) + 1) + targets_N, return_inverse=True)
    rows_P, targets_P = np.divmod(pairs_P, int(targets_N.max()) + 1)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.int64, copy=False)).to(device)

    return Pack(
        datums=datums,
        input_ids_T=tensor(tree.ids_T),
        position_ids_T=tensor(tree.depths_T),
        layout=PackedLayout(tree, kernel),
        rows_P=tensor(rows_P),
        targets_P=tensor(targets_P),
        inverse_N=tensor(inverse_N),
        has_several=any(datum.targets.ndim > 1 for datum in datums),
        pictures=sight and pack_pictures(sequences, tree.paths_S, tree.num_tokens, sight, device),
    )


def _substeps(datums: Sequence[Datum], num_substeps: int) -> Iterator[list[list[Datum]]]:
    units = _by(datums, "origin.group_index")
    if len(units) < num_substeps:
        units = _by(datums, "origin.trajectory_index")
    for indices in np.array_split(np.arange(len(units)), min(num_substeps, len(units))):
        yield [units[i] for i in indices]


def _apart(groups: list[list[Datum]], budget: PassBudget) -> list[list[list[Datum]]]:
    """Groups that may have a gradient, and those that have none. What both have in common is then computed twice: all
    of them together where these are few."""
    moving = [group for group in groups if any(_may_move(datum) for datum in group)]
    still = [group for group in groups if not any(_may_move(datum) for datum in group)]
    cost = sum(cost for group in still for _, cost in _units(group, budget)) if moving else 0.0
    return [moving, still] if cost >= budget.apart_tokens else [groups]


def _may_move(datum: Datum) -> bool:
    return bool(datum.advantages.any() and datum.weights.any())


def _by(datums: Sequence[Datum], name: str) -> list[list[Datum]]:
    return [list(unit) for _, unit in groupby(datums, key=attrgetter(name))]


def _fill(units: Iterable[_Piece], limit: float) -> Iterator[_Piece]:
    filling: list[Datum] = []
    filled = 0.0
    for unit, cost in units:
        # What units share with one another is not counted here; a pack of several still shares it.
        if filling and filled + cost > limit:
            yield filling, filled
            filling, filled = [], 0.0
        filling, filled = filling + unit, filled + cost
    yield filling, filled


def _shards(micro_batches: Sequence[_Piece], budget: PassBudget) -> list[list[list[Datum]]]:
    """Each goes where its middle lies, if all of the cost is divided evenly."""
    costs = np.array([cost for _, cost in micro_batches])
    middles = np.cumsum(costs) - costs / 2
    num_shards = min(budget.max_shards, len(micro_batches), max(1, int(costs.sum() / budget.min_shard_tokens)))
    shards: list[list[list[Datum]]] = [[] for _ in range(num_shards)]
    for (datums, _), middle in zip(micro_batches, middles, strict=True):
        shards[min(num_shards - 1, int(middle * num_shards / costs.sum()))].append(datums)
    return [shard for shard in shards if shard]


def _units(group: list[Datum], budget: PassBudget) -> Iterator[_Piece]:
    """The group and its cost, or pieces of it: neighbours in lexicographic order share most."""
    ordered = [group[i] for i in lexicographic([datum.model_input for datum in group])]
    first, *others = ordered
    encoding = _encoding(ordered, budget)
    unit, cost = [first], _cost(first, None, budget) + encoding[first]
    pieces: list[_Piece] = []
    for last, datum in zip(ordered, others, strict=False):
        added = _cost(datum, last, budget) + encoding[datum]
        if cost + added > budget.max_tokens:
            pieces.append((unit, cost))
            unit, cost = [datum], _cost(datum, None, budget) + encoding[datum]
        else:
            unit, cost = [*unit, datum], cost + added
    if not pieces:
        yield group, cost
        return
    yield from [*pieces, (unit, cost)]


def _encoding(datums: Sequence[Datum], budget: PassBudget) -> dict[Datum, float]:
    """What the pictures of each cost, in tokens: of one that several show, the first bears all, for a pass encodes it
    once."""
    seen, costs = set[bytes](), dict[Datum, float]()
    for datum in datums:
        fresh = {item.digest: item for item in datum.model_input.media if item.digest not in seen}
        costs[datum] = sum(map(budget.pictures.of, fresh.values()), 0.0) if budget.pictures else 0.0
        seen |= fresh.keys()
    return costs


def _cost(datum: Datum, last: Datum | None, budget: PassBudget) -> float:
    """What the tokens of a datum add to a pack in which `last` is the one before it, in tokens."""
    length = datum.num_tokens
    shared = common_prefix(last.model_input, datum.model_input) if last is not None and budget.shares else 0
    pairs = (length * (length + 1) - shared * (shared + 1)) / 2
    return length - shared + pairs * budget.tokens_per_pair
