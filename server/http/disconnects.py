"""Cancels the work for an answer when its client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, ClassVar, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from wire.errors import FINAL, HeadwayError

T = TypeVar("T")


class ClientDisconnected(HeadwayError):
    """The client disconnected; nobody reads this answer."""

    status: ClassVar[int] = 499
    code: ClassVar[str] = "client_gone"
    tries: ClassVar[int | None] = FINAL


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects. Read the body before.

    Raises ClientDisconnected also when the result is there, but the client is not.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            raise ClientDisconnected("the client hung up")
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def body_chunks(request: Request, what: str) -> AsyncGenerator[bytes]:
    """The body as it comes in. Raises ClientDisconnected when the client disconnects while it sends `what`."""
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect:
        raise ClientDisconnected(f"the client hung up while it sent {what}") from None


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
