"""What a tunnel costs next to a direct connection: by the byte, by the message, by the connection.

    python -m bench.tunnels [--megabytes 64] [--messages 2000]

A real server on a real (embedded) PostgreSQL, and the real worker and listener of a runner (`bench.tunnel_runner`)
around an environment that echoes. The client opens a session and speaks to it through `/runtime/tunnels/ID`, with the
SDK's websocket library and its settings; and directly to the echoing server, over TCP. Processor time is that of server
and runner together.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
from websockets.asyncio.client import connect

from bench.figures import write_figures
from bench.gateway import cpu_s, free_port, served
from bench.rollouts import furnished, killed, started
from store.embedded import EmbeddedPostgres
from store.migrations import upgrade

_CHUNK = 64 * 1024
_MESSAGE_BYTES = 512
_CONNECTIONS = 50


class Line(Protocol):
    """A connection to what echoes."""

    async def send(self, data: bytes) -> None: ...

    async def recv(self) -> bytes: ...


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--machine", default="", help="a word on the machine, for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headway-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        postgres = EmbeddedPostgres(folder / "postgres")
        stack.callback(postgres.stop)
        upgrade(postgres.url)
        key, runner_key = asyncio.run(furnished(postgres.url, []))
        url = f"http://127.0.0.1:{free_port()}"
        variables = {"HEADWAY_DATABASE_URL": postgres.url, "HEADWAY_SAMPLER_TOKEN": "token", "HEADWAY_GC_EVERY_S": "0"}
        variables["HEADWAY_DATA_DIR"] = str(folder)
        command = [sys.executable, "-m", "cli", "server", "--port", url.rpartition(":")[2]]
        server = stack.enter_context(served(command, variables, f"{url}/healthz", folder / "server.log"))
        echo = stack.enter_context(_Echo())
        runner = started([sys.executable, "-m", "bench.tunnel_runner", url, str(echo)], runner_key)
        stack.callback(killed, runner)
        figures = asyncio.run(_measured(url, key, echo, [server, runner.pid], options))
    write_figures("tunnels", {"machine": options.machine, **figures})


class _Echo:
    """The process of the echoing server."""

    def __enter__(self) -> int:
        command = [sys.executable, "-m", "bench.tunnels", "--echo"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def __exit__(self, *_: object) -> None:
        killed(self._process)


async def _echo() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=_CHUNK)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _measured(url: str, key: str, echo: int, pids: list[int], options: argparse.Namespace) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=30) as http:
        opened = (await http.post("/runtime/sessions", json={"environment": "sleeping"})).raise_for_status()
    tunnel = f"{url.replace('http', 'ws', 1)}/runtime/tunnels/{opened.json()['id']}"

    @asynccontextmanager
    async def by_tunnel() -> AsyncGenerator[Line]:
        async with connect(tunnel, additional_headers=headers, max_size=None, proxy=None) as websocket:
            yield websocket  # pyright: ignore[reportReturnType]

    @asynccontextmanager
    async def directly() -> AsyncGenerator[Line]:
        reader, writer = await asyncio.open_connection("127.0.0.1", echo, limit=_CHUNK)
        yield _Tcp(reader, writer)
        writer.close()

    ways = {"tunnel": by_tunnel, "direct": directly}
    found = {name: await _way(open_, pids, options) for name, open_ in ways.items()}
    ratios = {
        figure: round(found["tunnel"][figure] / found["direct"][figure], 1)
        for figure in ("ms_per_mb", "message_ms", "connection_ms")
    }
    return {**found, "tunnel_to_direct": ratios}


class _Tcp:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, data: bytes) -> None:
        """See Line."""
        self._writer.write(data)
        await self._writer.drain()

    async def recv(self) -> bytes:
        """See Line."""
        return await self._reader.read(_CHUNK)


async def _way(open_: Callable[[], Any], pids: list[int], options: argparse.Namespace) -> dict[str, float]:
    """Megabytes there and back, messages there and back, and connections up to the first byte back."""
    async with open_() as line:
        await _round_trip(line, 1024)
        before, megabyte_s = _spent(pids), await _timed(_bulk(line, options.megabytes))
        bulk_cpu_s = _spent(pids) - before
        before = _spent(pids)
        messages = [await _timed(_round_trip(line, _MESSAGE_BYTES)) for _ in range(options.messages)]
        message_cpu_s = _spent(pids) - before
    connections = [await _timed(_connection(open_)) for _ in range(_CONNECTIONS)]
    return {
        "ms_per_mb": round(1e3 * megabyte_s / options.megabytes, 2),
        "cpu_ms_per_mb": round(1e3 * bulk_cpu_s / options.megabytes, 2),
        "message_ms": round(1e3 * statistics.median(messages), 3),
        "cpu_ms_per_message": round(1e3 * message_cpu_s / options.messages, 3),
        "connection_ms": round(1e3 * statistics.median(connections), 2),
    }


async def _bulk(line: Line, megabytes: int) -> None:
    """Random bytes, as those of images, which do not get smaller."""
    chunk = os.urandom(_CHUNK)

    async def send() -> None:
        for _ in range(megabytes * 2**20 // _CHUNK):
            await line.send(chunk)

    sending, left = asyncio.create_task(send()), megabytes * 2**20
    while left > 0:
        left -= len(await line.recv())
    await sending


async def _round_trip(line: Line, num_bytes: int) -> None:
    await line.send(b"x" * num_bytes)
    left = num_bytes
    while left > 0:
        left -= len(await line.recv())


async def _connection(open_: Callable[[], Any]) -> None:
    async with open_() as line:
        await _round_trip(line, 1)


async def _timed(work: Awaitable[None]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


def _spent(pids: list[int]) -> float:
    return sum(map(cpu_s, pids))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--echo"]:
        asyncio.run(_echo())
    else:
        main()
