"""PostgreSQL with `sslmode=verify-full`: every kind of connection checks whom it speaks to, and passwords are
rotated."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from cli.main import app
from store.database import AsyncDatabase, Database
from store.migrations import upgrade
from store.notify import OPERATION_DONE, AsyncListener, Listener
from tests.certificates import Authority, replace
from tests.conftest import database_folder
from tests.tls_databases import NAME, TlsDatabase, behind_tls, installed, installed_postgres

USER, PASSWORD = "over_tls", "first-password"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module", params=["embedded", "installed"])
def served(request: pytest.FixtureRequest, authority: Authority) -> Iterator[TlsDatabase]:
    if request.param == "embedded":
        with behind_tls(request.getfixturevalue("postgres_url"), authority) as found:
            yield found
        return
    programs = installed_postgres()
    if programs is None:
        pytest.skip("no PostgreSQL is installed under /usr/lib/postgresql")
    with database_folder() as folder, installed(programs, folder, authority) as found:
        upgrade(found.admin)
        found.run("create role certified login superuser")
        yield found


@pytest.fixture(autouse=True)
def role(served: TlsDatabase) -> Iterator[None]:
    served.run(f"create role {USER} login superuser password '{PASSWORD}'")
    yield
    served.run(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{USER}'")
    served.run(f"drop role {USER}")


@pytest.fixture
def url(served: TlsDatabase, authority: Authority) -> str:
    return served.url(USER, PASSWORD, sslrootcert=authority.file)


@pytest.fixture
async def databases(url: str) -> AsyncIterator[tuple[AsyncDatabase, Database]]:
    both = AsyncDatabase(url, pool_size=1), Database(url, pool_size=1)
    yield both
    await both[0].close()
    both[1].close()


async def test_pools_listeners_migrations_and_commands_speak_over_tls(url: str, databases: Any):
    upgrade(url)
    ours, workers = databases
    async with ours.session() as session, ours.connection() as connection:
        assert await session.scalar(text("select current_user")) == USER
        assert connection.pgconn.ssl_in_use
    with workers.session() as session, workers.connection() as connection:
        assert session.scalar(text("select current_user")) == USER
        assert connection.pgconn.ssl_in_use
    listener = AsyncListener(url, [OPERATION_DONE])
    with listener.subscribe(OPERATION_DONE, "one") as woken:
        await listener.start()
        assert await woken.wait(60)  # it is connected
        async with ours.session() as session:
            await session.execute(text(f"select pg_notify('{OPERATION_DONE}', 'one')"))
        assert await woken.wait(60)
    await listener.close()
    worker = Listener(url, OPERATION_DONE)
    worker.wait(0.0)
    with workers.session() as session:
        session.execute(text(f"select pg_notify('{OPERATION_DONE}', 'two')"))
    assert worker.wait(60) == [(OPERATION_DONE, "two")]
    worker.close()
    migrated = await asyncio.to_thread(CliRunner().invoke, app, ["migrate", "--database-url", url])
    assert migrated.exit_code == 0, migrated.output


@pytest.mark.parametrize("wrong", ["name", "authority", "no authority"])
async def test_a_server_that_cannot_be_believed_gets_no_password_and_the_command_says_why(
    wrong: str, served: TlsDatabase, authority: Authority, tmp_path: Path
):
    other = Authority(tmp_path, "another")
    host, ca = ("elsewhere.headway.internal", authority.file) if wrong == "name" else (NAME, other.file)
    if wrong == "no authority":
        ca = tmp_path / "nowhere.pem"
    url = served.url(USER, PASSWORD, host=host, sslrootcert=ca)
    database, workers = AsyncDatabase(url, pool_size=1), Database(url, pool_size=1)
    with pytest.raises(psycopg.OperationalError):
        async with database.connection():
            raise AssertionError
    with pytest.raises(OperationalError), workers.session() as session:
        session.execute(text("select 1"))
    with pytest.raises(psycopg.OperationalError):
        Listener(url, OPERATION_DONE).wait(0.0)
    refused = await asyncio.to_thread(CliRunner().invoke, app, ["migrate", "--database-url", url])
    assert refused.exit_code == 1
    sentence = {"name": "does not match host name", "authority": "certificate verify failed"}.get(wrong, "nowhere.pem")
    assert sentence in refused.output
    assert PASSWORD not in refused.output
    await database.close()
    workers.close()


def test_a_server_without_tls_is_refused_before_a_password_is_sent(authority: Authority):
    received = list[bytes]()

    def answer(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            received.append(connection.recv(8))
            connection.sendall(b"N")
            received.append(connection.recv(100))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,), daemon=True)
        thread.start()
        plain = TlsDatabase(listening.getsockname()[1], "postgres", "")
        with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
            psycopg.connect(plain.url(USER, PASSWORD, sslrootcert=authority.file))
        thread.join()
    assert received[1] == b""


async def test_a_password_is_rotated_by_the_file_that_libpq_reads_at_each_connection(
    served: TlsDatabase, authority: Authority, tmp_path: Path
):
    file = tmp_path / "pgpass"
    replace(file, f"*:*:*:{USER}:{PASSWORD}\n")
    url = served.url(USER, sslrootcert=authority.file, passfile=file)
    ours, workers = AsyncDatabase(url, pool_size=2), Database(url, pool_size=2)
    async with ours.session() as before:
        assert await before.scalar(text("select 1")) == 1
        served.run(f"alter role {USER} password 'second-password'")
        replace(file, f"*:*:*:{USER}:second-password\n")
        async with ours.session() as after:  # a connection of its own
            assert await after.scalar(text("select 1")) == 1
        assert await before.scalar(text("select 1")) == 1  # what is open goes on
    with workers.session() as session:
        assert session.scalar(text("select 1")) == 1
    Listener(url, OPERATION_DONE).wait(0.0)
    await ours.close()
    workers.close()


def test_a_client_may_show_a_certificate_in_place_of_a_password(
    served: TlsDatabase, authority: Authority, request: pytest.FixtureRequest
):
    if "embedded" in request.node.name:
        pytest.skip("what ends TLS before the embedded PostgreSQL asks for no certificates")
    ours = authority.certify(common_name="certified")
    url = served.url("certified", sslrootcert=authority.file, sslcert=ours.cert, sslkey=ours.key)
    database = Database(url, pool_size=1)
    with database.session() as session:
        assert session.scalar(text("select current_user")) == "certified"
    database.close()
    with pytest.raises(psycopg.OperationalError, match="certificate"):
        psycopg.connect(served.url("certified", sslrootcert=authority.file))
