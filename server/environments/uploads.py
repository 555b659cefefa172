"""Archives of code, received before they are deployed. An upload has a credential of its own, in its address: clients
send no key with it, or a key of something else."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import tarfile
import zlib
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.principals.callers import Caller
from server.uploads.storing import stored_or_refused
from store.blob_stores import BlobDraft, BlobStore
from store.blob_stores.threads import in_blob_thread
from store.database import AsyncDatabase
from store.tables import EnvironmentBuildRow
from wire.errors import Conflict, InvalidRequest, NotFound, TooLarge

_LASTS = timedelta(hours=1)
_MOST_WAITING = 64
"""Uploads of a team that are not deployed: a new one takes the place of the oldest."""
_HEAD_BYTES = 64 * 1024
_BLOCK = 512


async def begin_upload(session: AsyncSession, caller: Caller) -> tuple[UUID, str]:
    """The id of a build, and the token with which its archive may be sent."""
    await _forget_oldest(session, caller.team_id)
    token = f"hw_up-{secrets.token_urlsafe(32)}"  # begins as keys do, so that logs strike it out as they do those
    build = EnvironmentBuildRow(
        team_id=caller.team_id,
        key_id=caller.key_id,
        state="awaiting_upload",
        source="upload",
        upload_token_hash=_hash(token),
    )
    session.add(build)
    await session.flush()
    return build.id, token


async def _forget_oldest(session: AsyncSession, team_id: UUID) -> None:
    """Leave room for one more among those that wait. What was sent goes with the next collection."""
    waits = EnvironmentBuildRow.state.in_(("awaiting_upload", "uploaded"))
    newest_first = EnvironmentBuildRow.created_at.desc(), EnvironmentBuildRow.id
    of_team = select(EnvironmentBuildRow.id).where(EnvironmentBuildRow.team_id == team_id, waits)
    too_many = of_team.order_by(*newest_first).offset(_MOST_WAITING - 1)
    await session.execute(delete(EnvironmentBuildRow).where(EnvironmentBuildRow.id.in_(too_many), waits))


async def check_token(session: AsyncSession, build_id: UUID, token: str, *, lock: bool = False) -> EnvironmentBuildRow:
    """The upload. Raises NotFound unless this is the token of one that may still be sent, Conflict where it was
    deployed."""
    build = await session.get(EnvironmentBuildRow, build_id, with_for_update=lock)
    if build is None or build.upload_token_hash is None or build.upload_token_hash != _hash(token):
        raise NotFound("there is no such upload; run the deployment again, which makes another")
    if build.triggered_at is not None:
        raise Conflict("this upload was deployed already; run the deployment again, which makes another")
    now = (await session.scalars(select(func.clock_timestamp()))).one()
    if now - build.created_at > _LASTS:
        raise NotFound("this upload was begun more than an hour ago; run the deployment again, which makes another")
    return build


async def receive_upload(
    database: AsyncDatabase, blobs: BlobStore, build_id: UUID, token: str, chunks: AsyncIterator[bytes], max_bytes: int
) -> int:
    """Keep the archive; how large it is. Sent again, it replaces what was there.

    Raises TooLarge, InvalidRequest for what is no gzip tar, NotFound, Conflict where it was deployed meanwhile.
    """
    with stored_or_refused("upload"):
        draft = await in_blob_thread(blobs, blobs.draft)
        try:
            await _write(draft, chunks, max_bytes)
            name = await in_blob_thread(blobs, draft.keep)
        finally:
            await asyncio.to_thread(draft.drop)
    async with database.session() as session:
        build = await check_token(session, build_id, token, lock=True)
        build.archive_blob, build.archive_bytes, build.state = name, draft.num_bytes, "uploaded"
    return draft.num_bytes


async def _write(draft: BlobDraft, chunks: AsyncIterator[bytes], max_bytes: int) -> None:
    head: bytes | None = b""
    async for chunk in chunks:
        if draft.num_bytes + len(chunk) > max_bytes:
            raise TooLarge(
                f"the environment's archive is larger than {max_bytes} bytes, the most that this server takes: leave "
                "out what it does not need, with .dockerignore"
            )
        if head is not None:
            head = (head + chunk)[:_HEAD_BYTES]
            if len(head) == _HEAD_BYTES:
                check_archive_head(head)
                head = None
        await asyncio.to_thread(draft.write, chunk)
    if head is not None:
        check_archive_head(head)


def check_archive_head(head: bytes) -> None:
    """Raises InvalidRequest unless this begins a gzip tar with something in it. The rest is for the runner to check,
    which unpacks it."""
    try:
        block = zlib.decompressobj(wbits=31).decompress(head, _BLOCK)
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (zlib.error, tarfile.HeaderError):
        raise InvalidRequest(
            "the upload is no gzip-compressed tar archive with something in it; 'hud deploy' makes one of the folder"
        ) from None


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
