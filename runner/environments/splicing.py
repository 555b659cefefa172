"""Bytes of two connections, each to the other's end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_CHUNK = 256 << 10


async def splice(one: Connection, other: Connection) -> None:
    """Until both have said all they had, or one of them is lost; closes the second. Each side is read as fast as the
    other takes it."""
    try:
        await asyncio.gather(_copy(one[0], other[1]), _copy(other[0], one[1]))
    except OSError:
        pass
    finally:
        other[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    with suppress(OSError, RuntimeError):
        writer.write_eof()
