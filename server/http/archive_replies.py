"""A tar archive as a reply: with a length and an ETag, and in parts for who asks for one (RFC 9110, one range)."""

from __future__ import annotations

import re

from fastapi import Request
from fastapi.responses import Response

from server.checkpoint_names.packing import PackedAdapter
from wire.process.closing_stream import ClosingStream

_RANGE = re.compile(r"bytes=(\d{1,18})?-(\d{1,18})?")


def archive_reply(request: Request, packed: PackedAdapter) -> Response:
    """The archive, a part of it, or that the client's copy is the same."""
    size = packed.archive.size
    headers = {
        "ETag": packed.etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'attachment; filename="{packed.file_name}"',
        "Content-Type": "application/x-tar",
        "X-Accel-Buffering": "no",
    }
    if packed.weights_sha256 is not None:
        headers["X-Adapter-SHA256"] = packed.weights_sha256
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if packed.etag in known:
        return _without_body(packed, 304, headers)
    wanted = _wanted(request, packed.etag, size)
    first, end = wanted or (0, size)
    if first >= end:
        return _without_body(packed, 416, {**headers, "Content-Range": f"bytes */{size}"})
    headers["Content-Length"] = str(end - first)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    status = 200 if wanted is None else 206
    if request.method == "HEAD":
        return _without_body(packed, status, headers)
    pieces = packed.archive.stream(first, end)
    return ClosingStream(pieces, pieces, status_code=status, headers=headers)


def _wanted(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """From where to before where; None: all of it, also for what is no range."""
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if found is None or not (found[1] or found[2]) or request.headers.get("if-range", etag) != etag:
        return None
    if not found[1]:
        return max(size - int(found[2]), 0), size
    first, end = int(found[1]), int(found[2]) + 1 if found[2] else None
    return None if end is not None and end <= first else (first, min(end or size, size))


def _without_body(packed: PackedAdapter, status: int, headers: dict[str, str]) -> Response:
    packed.archive.close()
    return Response(status_code=status, headers=headers)
