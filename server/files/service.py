"""Files of a team: taken, listed, read and deleted. Another team's file is not found.

A run copies what it needs when it is made, so a file may be deleted at any time.
"""

from __future__ import annotations

import uuid
from typing import Literal, cast
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of, record
from server.files.incoming import CheckedFile
from server.files.lines import FileKind
from server.files.types import StoredFile
from server.principals.callers import Caller
from server.values.sanitizing import storable_text
from store.tables import FileRow
from wire.errors import InvalidRequest, NotFound

PURPOSE = "fine-tune"
_MAX_NAME = 255

Order = Literal["asc", "desc"]


def check_purpose(purpose: str | None) -> None:
    """Raises InvalidRequest for what files are not for here."""
    if purpose is None:
        raise InvalidRequest(f"purpose is missing: send {PURPOSE!r}", param="purpose")
    if purpose != PURPOSE:
        raise InvalidRequest(
            f"purpose {purpose[:100]!r} is not offered here; files are for {PURPOSE!r}", param="purpose"
        )


async def add(session: AsyncSession, caller: Caller, filename: str, blob: str, checked: CheckedFile) -> StoredFile:
    """Note a file whose content is in the blob store."""
    row = FileRow(
        id=uuid.uuid4(),
        team_id=caller.team_id,
        key_id=caller.key_id,
        filename=storable_text(filename)[:_MAX_NAME],
        purpose=PURPOSE,
        blob=blob,
        num_bytes=checked.num_bytes,
        num_lines=checked.num_lines,
        kind=checked.kind,
    )
    session.add(row)
    counts = {"filename": row.filename, "num_bytes": row.num_bytes, "num_lines": row.num_lines}
    record(session, actor_of(caller), "upload_file", team_id=caller.team_id, subject_id=row.id, **counts)
    await session.flush()
    await session.refresh(row)
    return _stored(row)


async def find(session: AsyncSession, caller: Caller, file_id: UUID | None) -> StoredFile:
    """Raises NotFound. None: what the client called it is no id at all."""
    return _stored(await _row(session, caller, file_id))


async def page(
    session: AsyncSession, caller: Caller, after: UUID | None, limit: int, order: Order
) -> tuple[list[StoredFile], bool]:
    """Files behind `after`, and whether more follow. Raises NotFound where that is none of them."""
    place = FileRow.created_at, FileRow.id
    query = select(FileRow).where(FileRow.team_id == caller.team_id)
    if after is not None:
        last = await _row(session, caller, after)
        here, there = tuple_(*place), tuple_(last.created_at, last.id)
        query = query.where(here < there if order == "desc" else here > there)
    ordered = [column.desc() if order == "desc" else column for column in place]
    rows = list(await session.scalars(query.order_by(*ordered).limit(limit + 1)))
    return [_stored(row) for row in rows[:limit]], len(rows) > limit


async def delete(session: AsyncSession, caller: Caller, file_id: UUID | None) -> UUID:
    """Its content is collected later. Raises NotFound."""
    row = await _row(session, caller, file_id)
    record(session, actor_of(caller), "delete_file", team_id=caller.team_id, subject_id=row.id, filename=row.filename)
    await session.delete(row)
    return row.id


async def _row(session: AsyncSession, caller: Caller, file_id: UUID | None) -> FileRow:
    query = select(FileRow).where(FileRow.team_id == caller.team_id, FileRow.id == file_id)
    row = await session.scalar(query) if file_id is not None else None
    if row is None:
        raise NotFound("the team has no such file; upload it first", param="file_id")
    return row


def _stored(row: FileRow) -> StoredFile:
    return StoredFile(
        row.id,
        row.filename,
        row.purpose,
        row.num_bytes,
        row.num_lines,
        cast(FileKind, row.kind),
        row.created_at,
        row.blob,
    )
