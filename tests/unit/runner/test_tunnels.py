"""Bytes through a tunnel, and what a client reads when there is nothing behind it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from runner.tunnels.doors import Door, Doors
from runner.tunnels.listener import listening_for_tunnels
from wire.process.origins import listen

TOKEN = "t" * 32
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Behind:
    """A session whose environment is `serve`."""

    def __init__(self, port: int):
        self.port = port
        self.address = f"tcp://127.0.0.1:{port}"
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def stop(self) -> None: ...


class Listener:
    def __init__(self, url: str, doors: Doors):
        self.url, self.doors = url, doors

    def tunnel(self, placement: uuid.UUID, token: str = TOKEN) -> connect:
        headers = {"Authorization": f"Bearer {token}"}
        return connect(f"{self.url}/tunnels/{placement}", additional_headers=headers, compression=None, max_size=None)


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    doors, listening = Doors(), listen("127.0.0.1", 0)
    async with listening_for_tunnels(listening, TOKEN, doors):
        yield Listener(f"ws://127.0.0.1:{listening.getsockname()[1]}", doors)


@asynccontextmanager
async def session(door: Door, serve: Serve) -> AsyncGenerator[None]:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        door.open(Behind(server.sockets[0].getsockname()[1]))
        yield


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def received(tunnel: ClientConnection, num_bytes: int) -> bytes:
    found = b""
    while len(found) < num_bytes:
        message = await tunnel.recv()
        assert isinstance(message, bytes)
        assert len(message) <= 64 * 1024
        found += message
    return found


async def test_bytes_pass_both_ways_unchanged_and_in_order(listener: Listener):
    sent = b"".join(i.to_bytes(4, "big") for i in range(1_500_000))
    with listener.doors.door(placement := uuid.uuid4()) as door:
        async with session(door, echo), listener.tunnel(placement) as tunnel:

            async def send() -> None:
                for at in range(0, len(sent), 1 << 16):
                    await tunnel.send(sent[at : at + (1 << 16)])

            sending = asyncio.create_task(send())
            assert await received(tunnel, len(sent)) == sent
            await sending
            assert door.num_open == 1
        await asyncio.sleep(0.05)
        assert door.num_open == 0


async def test_a_tunnel_waits_for_its_environment_to_start(listener: Listener):
    with listener.doors.door(placement := uuid.uuid4()) as door:
        async with listener.tunnel(placement) as tunnel:
            await tunnel.send(b"early")
            await asyncio.sleep(0.05)
            async with session(door, echo):
                assert await received(tunnel, 5) == b"early"


async def test_what_an_environment_wrote_last_arrives_before_the_tunnel_closes_normally(listener: Listener):
    async def last_words(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 300_000)
        writer.close()

    with listener.doors.door(placement := uuid.uuid4()) as door:
        async with session(door, last_words), listener.tunnel(placement) as tunnel:
            assert await received(tunnel, 300_000) == b"x" * 300_000
            with pytest.raises(websockets.ConnectionClosedOK):
                await tunnel.recv()


async def test_an_environment_that_writes_is_held_up_by_a_client_that_does_not_read(listener: Listener):
    written = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.transport.set_write_buffer_limits(1 << 16)
        while written < 200_000_000:
            writer.write(b"x" * (1 << 16))
            await writer.drain()
            written += 1 << 16

    with listener.doors.door(placement := uuid.uuid4()) as door:
        async with session(door, flood), listener.tunnel(placement) as tunnel:
            await asyncio.sleep(0.5)
            before = written
            await asyncio.sleep(0.2)
            assert written == before < 50_000_000
            tunnel.transport.abort()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_failed_start_is_answered_to_the_first_request_as_one_sentence(listener: Listener, when: str):
    with listener.doors.door(placement := uuid.uuid4()) as door:
        if when == "before":
            door.fail("ModuleNotFoundError: No module named 'numpyy'")
        async with listener.tunnel(placement) as tunnel:
            await tunnel.send(b'{"jsonrpc":"2.0","id":7,"method":"hello","params":{}}\n')
            if when == "after":
                door.fail("ModuleNotFoundError: No module named 'numpyy'")
            reply = json.loads(await tunnel.recv())
    assert reply["id"] == 7
    assert reply["error"] == {"code": -32000, "message": "ModuleNotFoundError: No module named 'numpyy'"}


async def test_a_session_that_has_ended_is_answered_with_a_sentence_not_with_a_refusal(listener: Listener):
    with listener.doors.door(placement := uuid.uuid4()) as door:
        async with session(door, echo):
            pass
    async with listener.tunnel(placement) as tunnel:
        await tunnel.send(b'{"jsonrpc":"2.0","id":"a","method":"hello","params":{}}\n')
        assert json.loads(await tunnel.recv())["error"]["message"] == "the session has ended"


async def test_without_the_runners_token_there_is_no_tunnel(listener: Listener):
    with listener.doors.door(placement := uuid.uuid4()), pytest.raises(websockets.InvalidStatus) as refused:
        async with listener.tunnel(placement, token="another"):
            pass
    assert refused.value.response.status_code == 401


async def test_its_health_is_seen_without_the_token(listener: Listener):
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{listener.url.replace('ws', 'http', 1)}/healthz")).status_code == 200
        assert (await http.get(f"{listener.url.replace('ws', 'http', 1)}/other")).status_code == 401
