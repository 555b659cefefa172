"""The proxy through which builds reach a package index, and nothing else: tunnels (CONNECT) to hosts that are named.

Addresses of this machine and of private networks are refused, unless such an index was named by the operator.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from runner.environments.base import Log
from runner.environments.splicing import splice

PUBLIC_HOSTS = ("pypi.org:443", "files.pythonhosted.org:443")
INDEX_VARIABLES = ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_INDEX", "UV_FIND_LINKS")
_MAX_HEAD = 16 << 10
_ANY = "*"


def hosts_of_indexes(more: str) -> frozenset[str]:
    """`HOST:PORT` of the public index, of those in uv's variables, and of `more`, separated by commas; a host without
    a port is 443 of it, `*` is every public host."""
    named = [word for variable in INDEX_VARIABLES for word in os.environ.get(variable, "").replace(",", " ").split()]
    urls = (urlsplit(word.split("=", 1)[-1] if "://" in word else "") for word in named)
    ports = {"http": 80, "https": 443}
    ofurls = {f"{url.hostname}:{url.port or ports.get(url.scheme, 443)}" for url in urls if url.hostname}
    given = {word if ":" in word or word == _ANY else f"{word}:443" for word in more.replace(",", " ").split()}
    return frozenset({*PUBLIC_HOSTS, *ofurls, *given})


class IndexProxy:
    """Serves on a listener that was made inside a sandbox."""

    def __init__(self, hosts: Iterable[str], log: Log) -> None:
        self._hosts, self._log = frozenset(hosts), log
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused: set[str] = set()

    async def serve(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._server = await asyncio.start_server(self._accept, sock=listener, limit=_MAX_HEAD)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await self._answer(head, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # asyncio's streams would log that this task was cancelled
        finally:
            writer.close()

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, _, rest = head.decode("latin-1").partition(" ")
        wanted, _, after = rest.partition(" ")
        if method == "CONNECT":
            place, first = wanted.lower(), b""
        else:  # an index without TLS: the request goes on as it is, in its usual form, and so do those after it
            url = urlsplit(wanted)
            place = f"{url.hostname}:{url.port or 80}"
            path = url.path + (f"?{url.query}" if url.query else "")
            first = f"{method} {path or '/'} {after}".encode("latin-1")
            first = first.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        try:
            upstream = await self._open(place)
        except OSError as error:
            self._refuse(place, str(error))
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return
        if first:
            upstream[1].write(first)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await splice((reader, writer), upstream)

    async def _open(self, place: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = place.rpartition(":")
        host = host.strip("[]")
        is_named = place in self._hosts
        if not is_named and not (_ANY in self._hosts and port in ("80", "443")):
            raise PermissionError("it is no package index of this runner (--index-hosts)")
        found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        for *_, address in found:
            if is_named or ipaddress.ip_address(address[0]).is_global:
                return await asyncio.open_connection(str(address[0]), int(port))
        raise PermissionError("it has no public address")

    def _refuse(self, place: str, why: str) -> None:
        if place not in self._refused and len(self._refused) < 20:
            self._refused.add(place)
            self._log(f"not reached: {place[:200]}: {why}")
