"""What an agent process speaks to, in memory: chats that answer `4`, and reports, which a test may have refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from wire.process.origins import http_origin, listen
from wire.process.tls import TlsSettings
from wire.process.uvicorn_tls import TlsConfig


@dataclass
class Service:
    """`refuse`: by a piece of the path, the status to answer it with, and how often. `noted`: (what, trace, body)."""

    origin: str = ""
    refuse: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    noted: list[tuple[str, str, Any]] = field(default_factory=list[tuple[str, str, Any]])
    keys: set[str] = field(default_factory=set[str])
    chat_s: float = 0.0

    def of(self, trace_id: str) -> list[str]:
        return [what for what, trace, _ in self.noted if trace == trace_id]

    def body(self, what: str, trace_id: str) -> Any:
        return next(body for name, trace, body in self.noted if (name, trace) == (what, trace_id))

    async def until(self, what: str, trace_id: str) -> None:
        async with asyncio.timeout(60):
            while what not in self.of(trace_id):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def take(self, request: Request) -> JSONResponse:
        path = request.url.path
        for piece, (status, times) in list(self.refuse.items()):
            if piece in path and times:
                self.refuse[piece] = status, times - 1
                return JSONResponse({"detail": "refused"}, status)
        self.keys.add(request.headers["authorization"])
        body = json.loads(await request.body() or b"{}")
        if path.endswith("/chat/completions"):
            self.noted.append(("chat", request.headers.get("trace-id", ""), body))
            await asyncio.sleep(self.chat_s)
            return JSONResponse(_completion())
        *_, trace, what = path.split("/")
        self.noted.append((what, trace, body))
        return JSONResponse({})


def _completion() -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "4"}}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


@asynccontextmanager
async def running_service(tls: TlsSettings | None = None) -> AsyncGenerator[Service]:
    tls = tls or TlsSettings()
    service, app, listening = Service(), FastAPI(), listen("127.0.0.1", 0)

    @app.post("/{path:path}")
    async def take(request: Request) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        return await service.take(request)

    service.origin = http_origin("127.0.0.1", listening.getsockname()[1], is_tls=tls.is_on)
    server = uvicorn.Server(TlsConfig(app, tls=tls, log_level="critical", lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield service
    finally:
        server.should_exit = server.force_exit = True
        await serving
