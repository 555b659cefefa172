"""Large bodies of many clients take a bounded part of a server's memory together."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request

from server.http.body_memory import BodiesInTheWay, BodyMemory
from server.http.errors import install_error_handlers
from server.http.request_body import UPLOAD, SealedBodies, open_body
from server.process.settings import Limits
from server.protocols.openai.shared.errors import openai_error
from server.uploads.json_size import JsonBounds
from wire.errors import TooLarge

PIECE = b"x" * 1000


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_whoever_finds_no_room_waits_in_turn():
    memory, order = BodyMemory(10, wait_s=60), list[str]()

    async def one(name: str, num_bytes: int) -> int:
        taken = await memory.take(num_bytes)
        order.append(name)
        return taken

    assert await one("first", 8) == 8
    waiting = [asyncio.create_task(one("large", 9)), asyncio.create_task(one("small", 1))]
    await settle()
    assert order == ["first"], "a small one does not overtake for ever"
    memory.give_back(8)
    await settle()
    assert order == ["first", "large", "small"]
    assert [task.result() for task in waiting] == [9, 1]


async def test_more_than_there_is_at_all_is_let_in_alone():
    memory = BodyMemory(10, wait_s=60)
    assert await memory.take(500) == 10


async def test_who_leaves_while_waiting_keeps_nothing():
    memory = BodyMemory(10, wait_s=60)
    await memory.take(10)
    leaving = [asyncio.create_task(memory.take(10)) for _ in range(3)]
    staying = asyncio.create_task(memory.take(10))
    await settle()
    leaving[1].cancel()
    memory.give_back(10)
    leaving[0].cancel()  # in the moment in which it was its turn
    await settle()
    memory.give_back(await leaving[2])
    assert await asyncio.wait_for(staying, 5) == 10


async def test_nobody_waits_for_ever():
    memory = BodyMemory(10, wait_s=0.01)
    await memory.take(10)
    with pytest.raises(BodiesInTheWay):
        await memory.take(1)
    memory.give_back(10)
    assert await memory.take(10) == 10


class Uploading:
    """Clients of a route that reads whole bodies, as an ASGI server would call it."""

    def __init__(self, limits: Limits) -> None:
        app = FastAPI()
        install_error_handlers(app, unrouted=openai_error)

        @app.post("/upload", dependencies=[Depends(UPLOAD)])
        async def upload(request: Request) -> int:
            open_body(request, UPLOAD)
            return len(await request.body())

        app.add_middleware(SealedBodies, limits=limits)
        self._app = app
        self.num_read = 0
        self.statuses = list[int]()
        self.go_on = asyncio.Event()

    async def send(self, num_pieces: int, announced: bool) -> None:
        """One request. Its last piece comes when `go_on` is set."""
        pieces = [PIECE] * num_pieces

        async def receive() -> Any:
            if len(pieces) == 1:
                await self.go_on.wait()
            self.num_read += len(pieces.pop())
            return {"type": "http.request", "body": PIECE, "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.statuses.append(message["status"])

        headers = [(b"content-length", str(num_pieces * len(PIECE)).encode())] if announced else []
        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "path": "/upload", "raw_path": b"/upload",
            "root_path": "", "query_string": b"", "headers": headers, "client": ("127.0.0.1", 1), "scheme": "http",
            "server": ("127.0.0.1", 1),
        }  # fmt: skip
        await self._app(scope, receive, send)


@pytest.mark.parametrize("announced", [True, False])
async def test_large_bodies_of_many_clients_are_not_all_in_memory(announced):
    limits = Limits(body_bytes=20_000, small_body_bytes=2_000, bodies_in_memory_bytes=40_000)
    clients = Uploading(limits)
    tasks = [asyncio.create_task(clients.send(20, announced)) for _ in range(16)]
    for _ in range(50):
        await settle()
    assert clients.num_read <= 40_000 + 16 * 3_000
    clients.go_on.set()
    await asyncio.gather(*tasks)
    assert clients.statuses == [200] * 16
    assert clients.num_read == 16 * 20_000


async def test_small_bodies_wait_for_none():
    clients = Uploading(Limits(body_bytes=20_000, small_body_bytes=2_000, bodies_in_memory_bytes=20_000))
    large = asyncio.create_task(clients.send(20, True))
    await settle()
    clients.go_on.set()
    await asyncio.wait_for(clients.send(1, True), 5)
    await large
    assert clients.statuses == [200, 200]


async def test_a_body_that_waited_for_long_is_refused_for_now():
    limits = Limits(body_bytes=20_000, small_body_bytes=2_000, bodies_in_memory_bytes=20_000, body_wait_s=0.01)
    clients = Uploading(limits)
    first = asyncio.create_task(clients.send(20, True))
    await settle()
    await asyncio.wait_for(clients.send(20, True), 5)
    assert clients.statuses == [503]
    clients.go_on.set()
    await first
    assert clients.statuses == [503, 200]


def test_what_would_take_much_memory_is_refused_before_it_is_parsed():
    bounds = JsonBounds(containers=10, texts=10)
    bounds.check(b'["' + b"[{" * 100 + b'"]')
    bounds.check(b"[" + b"1," * 1000 + b"1]")
    with pytest.raises(TooLarge, match="more than 10 lists and objects"):
        bounds.check(b"[" + b"{}," * 10 + b"1]")
    with pytest.raises(TooLarge, match="more than 10 texts"):
        bounds.check(b"[" + b'"",' * 10 + b'""]')
