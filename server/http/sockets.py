"""Websockets: refused before they are accepted, or while they run until the client closes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from fastapi import WebSocket
from fastapi.responses import JSONResponse
from starlette.websockets import WebSocketDisconnect

from server.http.problem import ErrorBody
from wire.errors import HeadwayError

_MOST_REASON = 120
"""Bytes of a close frame's reason: 123 are possible."""


async def deny(websocket: WebSocket, refused: HeadwayError, shape: ErrorBody) -> None:
    """Answer the request for a websocket with a refusal."""
    body = shape(refused.status, refused.code, refused.message, refused.param)
    headers = {"Retry-After": str(refused.retry_after_s)} if refused.retry_after_s else None
    await websocket.send_denial_response(JSONResponse(body, refused.status, headers))


def close_reason(sentence: str) -> str:
    """As much of a sentence as a close frame holds."""
    return sentence.encode()[:_MOST_REASON].decode("utf-8", "ignore")


async def until_closed(websocket: WebSocket, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work, unless the client closes before; whether it was done. What the client sends meanwhile is read, so
    that its pings are answered, and dropped."""
    working, closing = asyncio.ensure_future(work), asyncio.ensure_future(_closed(websocket))
    try:
        await asyncio.wait((working, closing), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        working.result()
        return True
    except (WebSocketDisconnect, RuntimeError):  # sent after the client had closed
        return False
    finally:
        for task in (working, closing):
            task.cancel()
        await asyncio.gather(working, closing, return_exceptions=True)


async def _closed(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
