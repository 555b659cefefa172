"""Forward passes: what they return, and the handles under which `backward` finds them again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
from pydantic_core import to_json

from server.catalog.repository import as_uuid
from server.context import Context
from store.blobs import BlobStore
from store.operation_kinds import HANDLE_GIVERS
from store.tables import ModelRow, OperationRow
from wire.errors import Gone, NotFound
from wire.payload import decode


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


@dataclass(frozen=True, slots=True)
class ForwardHandle:
    """A forward that a backward may still use."""

    operation_id: UUID
    lengths: list[int]


async def open_forward(context: Context, model_id: UUID, forward_id: str) -> ForwardHandle:
    """The forward behind a handle. Raises NotFound, or Gone when it was used or the weights have moved since."""
    async with context.database.session() as session:
        operation_id = as_uuid(forward_id)
        operation = await session.get(OperationRow, operation_id) if operation_id else None
        if operation is None or operation.model_id != model_id or operation.kind not in HANDLE_GIVERS:
            raise NotFound(f"this model has no forward {forward_id!r}")
        model = await session.get_one(ModelRow, model_id)
    if operation.state != "done":
        raise NotFound(f"forward {forward_id!r} did not finish, so it has nothing to apply weights to")
    if operation.consumed_by_id is not None:
        raise Gone(f"forward {forward_id!r} was used by a backward already; call forward again")
    if operation.head_version != model.head_version:
        raise Gone(f"the weights have moved since forward {forward_id!r}; call forward again")
    lengths = await asyncio.to_thread(_lengths, operation, context.blobs)
    return ForwardHandle(operation.id, lengths)


def _lengths(operation: OperationRow, blobs: BlobStore) -> list[int]:
    data = operation.result if operation.result is not None else blobs.get(operation.result_blob or "")
    header, _ = decode(data)
    return header["lengths"]
