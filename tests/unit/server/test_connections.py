"""HTTP to samplers: connections are used again, and every way in which one can end is told from an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from server.sampling.connections import ConnectionFailed, Connections, origin_of
from wire.process.origins import http_origin

HEADERS = b"Content-Type: application/json\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers each request as it is told; counts connections and requests."""

    def __init__(self, answer: Answer) -> None:
        self.num_connections = 0
        self.requests = list[bytes]()
        self.hung_up = asyncio.Event()
        self.url = ""
        self._answer = answer

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                await self._answer(reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up.set()
        finally:
            writer.close()


@asynccontextmanager
async def serving(answer: Answer, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    server = Server(answer)
    listening = await asyncio.start_server(server.talk, host, 0)
    server.url = http_origin(host, listening.sockets[0].getsockname()[1])
    yield server
    listening.close()


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    connections = Connections(connect_s=1, read_s=0.3)
    yield connections
    connections.close()


async def ok(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


async def post(connections: Connections, url: str, body: bytes = b"{}") -> tuple[int, bytes]:
    async with connections.post(f"{url}/generate", HEADERS, body) as exchange:
        return exchange.status, await exchange.read()


async def test_a_connection_is_used_again(connections):
    async with serving(ok) as server:
        for _ in range(3):
            assert await post(connections, server.url, b"body") == (200, b"ok")
    assert server.num_connections == 1
    assert server.requests[0].startswith(b"POST /generate HTTP/1.1\r\nHost: 127.0.0.1:")
    assert server.requests[0].endswith(b"\r\n\r\nbody")


async def test_a_sampler_with_an_ipv6_address_is_reached_and_named_as_one(connections):
    async with serving(ok, "::1") as server:
        assert await post(connections, server.url, b"body") == (200, b"ok")
    assert server.requests[0].startswith(b"POST /generate HTTP/1.1\r\nHost: [::1]:")
    assert origin_of(f"{server.url}/generate") == server.url


async def test_requests_at_once_have_connections_of_their_own(connections):
    async with serving(ok) as server:
        assert await asyncio.gather(*(post(connections, server.url) for _ in range(20))) == [(200, b"ok")] * 20
    assert server.num_connections == 20


async def test_an_idle_connection_that_the_sampler_ended_is_replaced(connections):
    async def once(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        writer.close()

    async with serving(once) as server:
        for _ in range(3):
            assert await post(connections, server.url) == (200, b"ok")


async def test_a_body_comes_in_pieces(connections):
    async def pieces(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        for piece in (b"one", b"two"):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")

    async with serving(pieces) as server, connections.post(server.url, HEADERS, b"") as exchange:
        assert [chunk async for chunk in exchange.chunks()] == [b"one", b"two"]


@pytest.mark.parametrize(
    "beginning", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", CHUNKED, b"nonsense\r\n\r\n"]
)
async def test_an_answer_that_breaks_off_is_a_failure(beginning, connections):
    async def break_off(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        writer.close()

    async with serving(break_off) as server:
        with pytest.raises(ConnectionFailed):
            await post(connections, server.url)


async def test_silence_is_a_failure(connections):
    async def think(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1)

    async with serving(think) as server:
        with pytest.raises(ConnectionFailed, match="silent"):
            await post(connections, server.url)


async def test_nobody_there_is_a_failure(connections):
    with pytest.raises(ConnectionFailed):
        await post(connections, "http://127.0.0.1:1")
    assert not await connections.is_answering("http://127.0.0.1:1")
    async with serving(ok) as server:
        assert await connections.is_answering(server.url)


@pytest.mark.parametrize("cancelled", [True, False])
async def test_who_stops_reading_hangs_up(cancelled, connections):
    async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        while not writer.is_closing():
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)
        raise ConnectionResetError

    async with serving(endless) as server:
        if cancelled:
            reading = asyncio.create_task(post(connections, server.url))
            await asyncio.sleep(0.1)
            reading.cancel()
        else:
            async with connections.post(server.url, HEADERS, b"") as exchange:
                async for _ in exchange.chunks():
                    break
        await asyncio.wait_for(server.hung_up.wait(), 2)


async def test_a_slow_reader_holds_the_sampler_back(connections):
    async def plenty(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * 1024**2))
        for _ in range(64):
            writer.write(bytes(1024**2))
            await writer.drain()

    async with serving(plenty) as server, connections.post(server.url, HEADERS, b"") as exchange:
        await asyncio.sleep(0.2)
        assert exchange._connection._num_waiting_bytes < 1024**2
        assert len(await exchange.read()) == 64 * 1024**2
