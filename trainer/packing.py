"""Datums to micro-batches to packs: what the model computes at once, without padding.

The plan depends on the batch, num_substeps and the token budget alone, so that a replay with the same three computes
the same GEMM shapes and thus the same bits. Losses are sums: a split changes nothing but rounding.

`build_pack` is where tokens that sequences have in common may be computed once. Its callers know only that a pack
has predictions, and that each action token reads one of them (`inverse_N`), possibly one that others read too.
"""

# T packed tokens, P predictions, N action tokens of all datums of the pack

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from trainer.attention import PackedLayout
from trainer.batch import Datum


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """One forward pass over datums. All tensors int64, on the model's device.

    position_ids_T: a token's place in its own sequence. rows_P, targets_P: the packed token whose hidden state
    predicts, and the token predicted. inverse_N: the prediction that an action token reads, datum by datum.
    """

    datums: Sequence[Datum]
    input_ids_T: torch.Tensor
    position_ids_T: torch.Tensor
    layout: PackedLayout
    rows_P: torch.Tensor
    targets_P: torch.Tensor
    inverse_N: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """Tokens that the model computes."""
        return len(self.input_ids_T)


def plan_micro_batches(
    datums: Sequence[Datum], *, group_size: int, num_substeps: int, max_tokens: int
) -> list[list[Datum]]:
    """Micro-batches of at most max_tokens computed tokens, in the order of the batch.

    A group is kept whole if the budget allows; a datum is never split, so one longer than the budget goes alone.
    Substeps divide the groups, or the trajectories where there are more substeps than groups.
    """
    chunks = _substeps(datums, group_size, num_substeps)
    return [micro_batch for groups in chunks for micro_batch in _fill(groups, max_tokens)]


def build_pack(datums: Sequence[Datum], device: torch.device) -> Pack:
    """Sequences one behind the other, each with its own positions and its own block of attention."""
    starts = np.cumsum([0] + [datum.num_computed_tokens for datum in datums])
    rows_N = np.concatenate(
        [datum.action_positions_N - 1 + start for datum, start in zip(datums, starts[:-1], strict=True)]
    )

    def tensor(parts: Iterable[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(list(parts)).astype(np.int64)).to(device)

    return Pack(
        datums=datums,
        input_ids_T=tensor(datum.ids[:-1] for datum in datums),
        position_ids_T=tensor(np.arange(datum.num_computed_tokens) for datum in datums),
        layout=PackedLayout(tuple(datum.num_computed_tokens for datum in datums)),
        rows_P=tensor([rows_N]),
        targets_P=tensor(datum.ids[datum.action_positions_N] for datum in datums),
        inverse_N=torch.arange(len(rows_N), device=device),
    )


def _substeps(datums: Sequence[Datum], group_size: int, num_substeps: int) -> Iterator[list[list[Datum]]]:
    units = _by(datums, group_size)
    if len(units) < num_substeps:
        units = _by(datums, 1)
    for indices in np.array_split(np.arange(len(units)), min(num_substeps, len(units))):
        yield [units[i] for i in indices]


def _by(datums: Sequence[Datum], num_trajectories: int) -> list[list[Datum]]:
    return [list(unit) for _, unit in groupby(datums, key=lambda datum: datum.trajectory_index // num_trajectories)]


def _fill(groups: list[list[Datum]], max_tokens: int) -> Iterator[list[Datum]]:
    filling: list[Datum] = []
    for unit in (unit for group in groups for unit in _units(group, max_tokens)):
        if filling and _num_tokens(filling) + _num_tokens(unit) > max_tokens:
            yield filling
            filling = []
        filling = filling + unit
    yield filling


def _units(group: list[Datum], max_tokens: int) -> list[list[Datum]]:
    return [group] if _num_tokens(group) <= max_tokens else [[datum] for datum in group]


def _num_tokens(datums: list[Datum]) -> int:
    return sum(datum.num_computed_tokens for datum in datums)
