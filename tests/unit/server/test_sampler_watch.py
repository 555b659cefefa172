"""Requests on a sampler that was stopped are given up; those on one that only lost the database are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from server.sampling.connections import ConnectionFailed, Connections
from server.sampling.sampler_watch import SamplerWatch

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Sampler:
    """Accepts everything and never finishes a POST; /healthz answers while `is_well`."""

    def __init__(self, beginning: bytes) -> None:
        self.is_well = True
        self.num_posts = 0
        self.url = ""
        self._beginning = beginning

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /healthz") and self.is_well:
            writer.write(OK)
        elif head.startswith(b"POST"):
            self.num_posts += 1
            writer.write(self._beginning)
        await reader.read()
        writer.close()


@asynccontextmanager
async def sampling(beginning: bytes = b"") -> AsyncIterator[Sampler]:
    sampler = Sampler(beginning)
    listening = await asyncio.start_server(sampler.talk, "127.0.0.1", 0)
    sampler.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield sampler
    listening.close()


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    connections = Connections(connect_s=0.3, read_s=600)
    yield connections
    connections.close()


@asynccontextmanager
async def watching(connections: Connections, live: set[str], fails: int = 0) -> AsyncIterator[None]:
    left = fails

    async def live_urls() -> set[str]:
        nonlocal left
        left -= 1
        if left >= 0:
            raise psycopg.OperationalError("the database is away")
        return live

    watch = SamplerWatch(connections, live_urls, every_s=0.05)
    yield
    await watch.close()


async def read(connections: Connections, url: str) -> bytes:
    async with connections.post(f"{url}/generate", b"", b"{}") as exchange:
        return await exchange.read()


@pytest.mark.parametrize("beginning", [b"", CHUNKED])
async def test_a_request_on_a_sampler_that_was_stopped_is_given_up_once_its_heartbeat_ran_out(connections, beginning):
    async with sampling(beginning) as sampler, watching(connections, live := {sampler.url + "/"}):
        sampler.is_well = False
        reading = asyncio.create_task(read(connections, sampler.url))
        await asyncio.sleep(0.5)
        assert not reading.done(), "it has a heartbeat"
        live.clear()
        with pytest.raises(ConnectionFailed, match="silent"):
            async with asyncio.timeout(30):
                await reading
        assert sampler.num_posts == 1, "nobody may send it again on this sampler"
        assert connections.busy() == []


async def test_a_sampler_without_a_heartbeat_that_answers_goes_on(connections):
    async with sampling() as sampler, watching(connections, set()):
        reading = asyncio.create_task(read(connections, sampler.url))
        await asyncio.sleep(0.5)
        assert not reading.done()
        assert connections.busy() == [sampler.url]
        sampler.is_well = False
        with pytest.raises(ConnectionFailed):
            async with asyncio.timeout(30):
                await reading


async def test_a_database_that_is_away_for_a_while_does_not_end_the_watch(connections):
    async with sampling() as sampler, watching(connections, set(), fails=3):
        sampler.is_well = False
        with pytest.raises(ConnectionFailed):
            async with asyncio.timeout(30):
                await read(connections, sampler.url)


async def test_a_process_that_accepts_connections_and_says_nothing_does_not_answer(connections):
    async with sampling() as sampler:
        assert await connections.is_answering(sampler.url)
        sampler.is_well = False
        assert not await connections.is_answering(sampler.url)
