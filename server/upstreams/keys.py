"""The keys of vendors: in files, read when they are used, never stored or logged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from server.upstreams.types import UpstreamTarget
from wire.errors import Unavailable

log = structlog.get_logger(__name__)

_MOST_BYTES = 16 * 1024


async def vendors_key(target: UpstreamTarget) -> str:
    """The key for a vendor's model. Raises Unavailable where its file cannot be read, or holds none."""
    path = Path(target.upstream.key_file)
    try:
        key = await asyncio.to_thread(_read, path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        log.error("upstream_key_unreadable", upstream=target.slug, path=str(path), reason=reason)
        raise Unavailable(
            f"the key of the upstream {target.slug!r} cannot be read on this server; an operator can mend that "
            "('headway upstreams show' names its file)"
        ) from None
    return key


def _read(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError("the file is too large for a key")
    key = content.decode("ascii", "replace").strip()
    if not key or not key.isprintable() or not key.isascii() or " " in key:
        raise ValueError("the file does not hold one key and nothing else")
    return key
