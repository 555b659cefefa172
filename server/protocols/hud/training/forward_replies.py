"""The reply to a forward, written datum by datum: a batch of them never becomes Python objects as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
from pydantic_core import to_json


@dataclass(frozen=True, slots=True)
class Forward:
    """Per-token tensors of a batch, concatenated over datums of the given lengths."""

    operation_id: UUID
    traj_idx: Sequence[int]
    lengths: Sequence[int]
    arrays: dict[str, npt.NDArray[Any]]
    group_size: int | None

    def to_json(self) -> bytes:
        """The reply as JSON text, built datum by datum so that only one of them is ever Python objects."""
        datums = b",".join(self._datums())
        return b'{"forward_id":' + to_json(self.operation_id.hex) + b',"data":[' + datums + b"]}"

    def _datums(self) -> Iterator[bytes]:
        ends = np.cumsum(self.lengths)
        for index, (trajectory, end, length) in enumerate(zip(self.traj_idx, ends, self.lengths, strict=True)):
            datum: dict[str, Any] = {
                "reward": float(self.arrays["rewards"][index]),
                "traj_idx": trajectory,
                "group_idx": None if self.group_size is None else trajectory // self.group_size,
            }
            for name in ("logprobs", "sampling_logprobs", "mask"):
                datum[name] = self.arrays[name][end - length : end].tolist()
            yield to_json(datum, inf_nan_mode="constants")
