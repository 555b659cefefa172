"""PostgreSQL over TLS: the embedded one, whose binaries know no TLS, behind a process that ends it, as a pooler does;
and an installed one that does it itself, where there is one."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import struct
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from sqlalchemy import make_url

from store.embedded.programs import Programs
from tests.certificates import Authority, Certificate

NAME = "db.headway.internal"
_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_INSTALLED = Path("/usr/lib/postgresql")
_RULES = """\
local all all trust
hostssl all certified 127.0.0.1/32 cert
hostssl all all 127.0.0.1/32 scram-sha-256
"""


@dataclass(frozen=True, slots=True)
class TlsDatabase:
    """Listens at `port` of 127.0.0.1, over TLS as NAME. `admin`: how it is reached without."""

    port: int
    database: str
    admin: str

    def url(self, user: str, password: str = "", *, host: str = NAME, **options: object) -> str:
        given = f"{user}:{quote(password)}" if password else user
        query = urlencode({"hostaddr": "127.0.0.1", "sslmode": "verify-full", **options})
        return f"postgresql://{given}@{host}:{self.port}/{self.database}?{query}"

    def run(self, statement: str) -> None:
        with psycopg.connect(self.admin, autocommit=True) as connection:
            connection.execute(statement.encode())


def installed_postgres() -> Path | None:
    """The programs of the newest PostgreSQL of the system."""
    found = [path.parent for path in _INSTALLED.glob("*/bin/initdb")]
    return max(found, default=None, key=lambda path: int(path.parts[-2]))


@contextmanager
def installed(bin_folder: Path, folder: Path, authority: Authority) -> Generator[TlsDatabase]:
    """`folder`: one that PostgreSQL's own user can reach."""
    programs = replace(Programs.of(folder / "none"), bin=bin_folder, version=int(bin_folder.parts[-2]))
    data, ours, port = folder / "installed", authority.certify(NAME), _free_port()
    programs.initialise(data)
    for name, source in (("server.crt", ours.cert), ("server.key", ours.key), ("root.crt", authority.file)):
        shutil.copy(source, data / name)
        (data / name).chmod(0o600)
        programs.give(data / name)
    (data / "pg_hba.conf").write_text(_RULES)
    options = ["ssl=on", "ssl_ca_file=root.crt", "fsync=off", "password_encryption=scram-sha-256"]
    command = programs.server("-h", "127.0.0.1", "-p", str(port), "-k", str(data))
    command += [word for option in options for word in ("-c", option)]
    with (folder / "log").open("ab") as output:
        process = programs.start(command, data, output)
    try:
        admin = f"postgresql://postgres@/postgres?host={quote(str(data), safe='')}&port={port}"
        _wait_for(admin)
        yield TlsDatabase(port, "postgres", admin)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def behind_tls(url: str, authority: Authority) -> Generator[TlsDatabase]:
    """A database that listens on a Unix socket."""
    parsed = make_url(url)
    path = f"{parsed.query['host']}/.s.PGSQL.{parsed.port or 5432}"
    loop, port = asyncio.new_event_loop(), _free_port()
    thread = threading.Thread(target=loop.run_forever, name="tls", daemon=True)
    thread.start()
    ended = _Terminator(authority.certify(NAME), str(path))
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(ended.take, "127.0.0.1", port), loop).result()
    yield TlsDatabase(port, parsed.database or "postgres", url)
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


class _Terminator:
    def __init__(self, certificate: Certificate, path: str) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate.cert, certificate.key)
        self._path = path

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while (asked := struct.unpack("!II", await reader.readexactly(8))[1]) == _GSS_REQUEST:
                writer.write(b"N")
            assert asked == _SSL_REQUEST
            writer.write(b"S")
            await writer.start_tls(self._context)
            inner_reader, inner_writer = await asyncio.open_unix_connection(self._path)
            pumps = (_pump(reader, inner_writer), _pump(inner_reader, writer))
            await asyncio.gather(*pumps)
        writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    sink.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def _wait_for(url: str) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return
