"""Bytes between a websocket and an environment's connection, each side waiting for the other."""

from __future__ import annotations

import asyncio
import contextlib
import json

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

FRAME_BYTES = 64 * 1024
_FIRST_LINE_BYTES = 16 * 1024 * 1024
_ANSWER_S = 30.0


async def relay(websocket: ServerConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side ends. When the environment's does, what it has written is sent first, and the websocket is closed
    normally. When the websocket does, the environment's connection is closed: a half-close is not carried."""
    outward = asyncio.create_task(_outward(websocket, reader))
    inward = asyncio.create_task(_inward(websocket, writer))
    try:
        await asyncio.wait({outward, inward}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (outward, inward):
            task.cancel()
        await asyncio.gather(outward, inward, return_exceptions=True)
        writer.transport.abort() if websocket.close_code is not None else writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    await websocket.close()


async def answer_with_error(websocket: ServerConnection, sentence: str) -> None:
    """What a client's control channel takes for a final answer: a JSON-RPC error to its first request. A close alone
    would have it try again for five minutes."""
    line = b""
    with contextlib.suppress(TimeoutError, ConnectionClosed):
        async with asyncio.timeout(_ANSWER_S):
            while b"\n" not in line and len(line) < _FIRST_LINE_BYTES:
                message = await websocket.recv()
                line += message.encode() if isinstance(message, str) else message
    error = {"jsonrpc": "2.0", "id": _request_id(line), "error": {"code": -32000, "message": sentence}}
    with contextlib.suppress(ConnectionClosed):
        await websocket.send(json.dumps(error).encode() + b"\n")
    await websocket.close()


async def _outward(websocket: ServerConnection, reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError, ConnectionClosed):
        while data := await reader.read(FRAME_BYTES):
            await websocket.send(data)


async def _inward(websocket: ServerConnection, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        async for message in websocket:
            writer.write(message.encode() if isinstance(message, str) else message)
            await writer.drain()


def _request_id(line: bytes) -> int | str | None:
    try:
        request = json.loads(line.partition(b"\n")[0])
    except ValueError:
        return None
    found = request.get("id") if isinstance(request, dict) else None
    return found if isinstance(found, int | str) else None
