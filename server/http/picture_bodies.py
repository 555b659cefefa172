"""How much larger a body may be that may carry pictures: as much as their bytes take in base64, where there is a base
that reads any. Only a body beyond the usual bound asks for that."""

from __future__ import annotations

from fastapi import Request

from server.catalog.repository import any_base_reads_pictures
from server.http.context import Context
from server.http.request_body import BodyBound


async def room_for_pictures(request: Request) -> int:
    """Bytes beyond the usual bound."""
    context: Context = request.app.state.context
    async with context.database.session() as session:
        if not await any_base_reads_pictures(session):
            return 0
    return -(-context.settings.pictures.limits.bytes_in_all // 3) * 4


async def _upload(request: Request) -> int:
    context: Context = request.app.state.context
    return context.settings.limits.body_bytes + await room_for_pictures(request)


UPLOAD_WITH_PICTURES = BodyBound(lambda limits: limits.body_bytes, _upload)
