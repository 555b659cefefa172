"""Forward passes that have been done: the handles under which `backward` finds them again."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from server.catalog.repository import as_uuid
from store.blob_stores import BlobStore
from store.database import AsyncDatabase
from store.operation_kinds import HANDLE_GIVERS
from store.oplog.results import read_result
from store.tables import ModelRow, OperationRow
from wire.errors import Gone, NotFound


@dataclass(frozen=True, slots=True)
class ForwardHandle:
    """A forward that a backward may still use."""

    operation_id: UUID
    lengths: list[int]


async def open_forward(database: AsyncDatabase, blobs: BlobStore, model_id: UUID, forward_id: str) -> ForwardHandle:
    """The forward behind a handle. Raises NotFound, or Gone when it was used or the weights have moved since."""
    async with database.session() as session:
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
    header, _ = await read_result(operation, blobs)
    lengths = header.get("lengths")  # none where it was asked for as what a loss costs
    if lengths is None:
        raise NotFound(f"{forward_id!r} returned the logprobs of a loss; a backward needs a forward of its own")
    return ForwardHandle(operation.id, lengths)
