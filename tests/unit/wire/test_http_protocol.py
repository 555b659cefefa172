"""Connections that never finish anything are ended; slow ones that get on are not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from wire.process.http_protocol import BoundedProtocol, ConnectionBounds

PATIENCE_S = 30
HEAD = b"POST /read HTTP/1.1\r\nHost: here\r\n"


class Brief(BoundedProtocol):
    """Seconds instead of minutes. A process that is busy for longer than a check takes none for slow."""

    bounds = ConnectionBounds(
        head_s=1.0, idle_s=1.5, stall_s=1.0, linger_s=1.0, least_bytes_per_s=1000, check_every_s=0.2
    )


class App:
    """Reads bodies under /read, answers without under /refuse, and streams without end under /stream."""

    def __init__(self) -> None:
        self.num_heads = 0
        self.num_read = 0
        self.num_sent = 0
        self.gone = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.num_heads += 1
        if scope["path"] == "/stream":
            await self._stream(send)
            return
        if scope["path"] == "/read":
            while True:
                message = await receive()
                self.num_read += len(message.get("body", b""))
                if message["type"] == "http.disconnect":
                    self.gone += 1
                    return
                if not message["more_body"]:
                    break
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def _stream(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        piece = b"x" * 65536
        sending = True
        while sending:
            before = asyncio.get_running_loop().time()
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            self.num_sent += len(piece)
            sending = asyncio.get_running_loop().time() - before < 60
            await asyncio.sleep(0)


@asynccontextmanager
async def listening(
    app: App,
    protocol: type[asyncio.Protocol] = Brief,
    keep_alive_s: int = 75,
    *,
    given: socket.socket | None = None,
) -> AsyncIterator[Callable[[], Any]]:
    """Yields what opens a connection."""
    config = uvicorn.Config(
        app, port=0, http=protocol, ws="none", log_config=None, lifespan="off", timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext
    task = asyncio.create_task(server.serve(sockets=[given] if given else None))
    while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
        await asyncio.sleep(0.01)
    host, port = (given or server.servers[0].sockets[0]).getsockname()[:2]
    yield lambda: asyncio.open_connection(host, port)
    server.should_exit = True
    await task


async def answer(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection ends, or is reset."""
    pieces = list[bytes]()
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE_S):
            while piece := await reader.read(2**16):
                pieces.append(piece)
    return b"".join(pieces)


async def keep_sending(writer: asyncio.StreamWriter, piece: bytes, most: int) -> int:
    """How many pieces were taken before the connection ended."""
    for number in range(most):
        try:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)  # the server is on this loop
        except ConnectionError:
            return number
    return most


@pytest.mark.parametrize("line", [b"a: " + b"x" * 1021, b"a: x", b""], ids=["long", "short", "blank"])
async def test_a_head_without_end_is_refused(line):
    app = App()
    async with listening(app) as connect:
        reader, writer = await connect()
        begin = HEAD if line else b""
        sent = await keep_sending(writer, begin + (line + b"\r\n") * 64, 10_000)
        assert sent < 10_000
        assert app.num_heads == 0
        assert (await answer(reader))[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400", b"")


async def test_a_head_over_the_bound_in_one_piece_is_refused_with_a_sentence():
    app = App()
    async with listening(app) as connect:
        for header in (b"a: " + b"x" * 70_000 + b"\r\n", b"a: x\r\n" * 300):
            reader, writer = await connect()
            writer.write(HEAD + header + b"\r\n")
            reply = await answer(reader)
            assert reply.startswith(b"HTTP/1.1 431 ")
            assert b'"code": "too_large"' in reply
    assert app.num_heads == 0


async def test_a_long_address_or_trailers_without_end_are_refused():
    app = App()
    async with listening(app) as connect:
        reader, writer = await connect()
        writer.write(b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n")
        assert (await answer(reader)).startswith(b"HTTP/1.1 431 ")
        _, writer = await connect()
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        assert await keep_sending(writer, b"a: x\r\n" * 64, 10_000) < 10_000


async def test_requests_far_ahead_of_their_answers_are_refused():
    app = App()
    async with listening(app) as connect:
        reader, writer = await connect()
        writer.write(b"GET /stream HTTP/1.1\r\nHost: here\r\n\r\n" * 1000)
        await answer(reader)
    assert app.num_heads <= 1 + ConnectionBounds().pipelined


NEVER_FINISHED = {
    b"": b"",
    b"\r\n": b"",
    b"POST /read HT": b"HTTP/1.1 408",
    HEAD: b"HTTP/1.1 408",
    HEAD + b"Content-Length: 100000\r\n\r\n": b"HTTP/1.1 408",
    HEAD + b"Content-Length: 100000\r\n\r\n" + b"x" * 999: b"HTTP/1.1 408",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n": b"HTTP/1.1 408",
}


async def test_what_is_never_finished_ends():
    app = App()
    async with listening(app) as connect:

        async def begin(begun: bytes) -> bytes:
            reader, writer = await connect()
            writer.write(begun)
            return (await answer(reader))[:12]

        ends = await asyncio.gather(*(begin(begun) for begun in NEVER_FINISHED))
    assert dict(zip(NEVER_FINISHED, ends, strict=True)) == NEVER_FINISHED
    assert app.gone == app.num_heads == 3


async def test_a_connection_without_a_request_ends_sooner_than_one_that_had_one():
    class Keeping(Brief):
        bounds = replace(Brief.bounds, idle_s=1000.0)

    async with listening(App(), Keeping) as connect:
        asked, asking = await connect()
        asking.write(b"GET /refuse HTTP/1.1\r\nHost: here\r\n\r\n")
        assert (await asked.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        silent, _ = await connect()
        async with asyncio.timeout(PATIENCE_S):
            assert not await silent.read()
        assert not asked.at_eof()
        asking.close()


@pytest.mark.parametrize("begun", [HEAD + b"a: ", HEAD + b"Content-Length: 100000\r\n\r\n"], ids=["head", "body"])
async def test_a_trickle_is_no_progress(begun):
    async with listening(App()) as connect:
        reader, writer = await connect()
        writer.write(begun)
        reading = asyncio.create_task(answer(reader))
        while not reading.done():
            with contextlib.suppress(ConnectionError):
                writer.write(b"x")
                await writer.drain()
            await asyncio.wait([reading], timeout=0.05)
        assert reading.result().startswith(b"HTTP/1.1 408")


async def test_a_slow_body_that_gets_on_is_waited_for():
    """Far beyond the time in which nothing may come."""
    app = App()
    async with listening(app) as connect:
        reader, writer = await connect()
        writer.write(HEAD + b"Content-Length: 50000\r\nConnection: close\r\n\r\n")
        for _ in range(25):
            writer.write(b"x" * 2000)
            await writer.drain()
            await asyncio.sleep(0.1)
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
    assert app.num_read == 50_000


async def test_the_rest_of_a_body_is_dropped_once_it_is_answered():
    app = App()
    async with listening(app) as connect:
        reader, writer = await connect()
        writer.write(b"POST /refuse HTTP/1.1\r\nHost: here\r\nContent-Length: 100000000\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        assert await keep_sending(writer, b"x" * 65536, 4) == 4
        await answer(reader)
    assert app.num_read == 0


async def test_a_connection_goes_on_after_an_answer_that_came_before_the_body():
    async with listening(App()) as connect:
        reader, writer = await connect()
        for _ in range(3):
            writer.write(b"POST /refuse HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200")
            writer.write(b"hello")
            await asyncio.sleep(0.5)
        writer.close()


async def test_a_client_that_reads_nothing_is_left_and_the_stream_waits_for_it_meanwhile():
    app = App()
    async with listening(app) as connect:
        reader, writer = await connect()
        writer.transport.pause_reading()
        writer.write(b"GET /stream HTTP/1.1\r\nHost: here\r\n\r\n")
        sent = -1
        while sent != app.num_sent or not sent:
            sent = app.num_sent
            await asyncio.sleep(0.1)
        assert sent < 32 * 1024**2
        async with asyncio.timeout(PATIENCE_S):
            while app.num_sent < 10 * sent:  # noqa: ASYNC110 - what is sent to nobody goes nowhere, and fast
                await asyncio.sleep(0.1)
        del reader


async def test_a_client_that_reads_slowly_gets_all_of_it():
    app = App()
    async with listening(app) as connect:
        reader, writer = await connect()
        writer.write(b"GET /stream HTTP/1.1\r\nHost: here\r\n\r\n")
        num_read = 0
        for _ in range(25):
            num_read += len(await reader.readexactly(200_000))
            await asyncio.sleep(0.1)
        assert num_read == 5_000_000
        writer.close()


@pytest.mark.parametrize("protocol", [Brief, HttpToolsProtocol])
async def test_no_answer_waits_for_the_acknowledgement_of_its_head(protocol: type[HttpToolsProtocol]):
    """asyncio alone leaves connections as they are whose listening socket does not say that it is TCP's."""
    connections = list[socket.socket]()

    class Seen(protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            connections.append(transport.get_extra_info("socket"))

    with socket.create_server(("127.0.0.1", 0)) as given:
        async with listening(App(), Seen, given=given) as connect:
            _, writer = await connect()
            while not connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            sends_at_once = connections[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            writer.close()
    assert bool(sends_at_once) == (protocol is Brief)


async def test_uvicorn_alone_has_no_such_bounds():
    """The tests above notice when the bounds are gone."""
    async with listening(App(), HttpToolsProtocol) as connect:
        reader, writer = await connect()
        assert await keep_sending(writer, HEAD + b"a: x\r\n" * 64, 1) == 1
        assert await keep_sending(writer, b"a: " + b"x" * 65536 + b"\r\n", 32) == 32
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await reader.read()
        writer.close()
