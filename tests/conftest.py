"""Fixtures for all suites: one real PostgreSQL a session, its schema built by the migrations."""

from __future__ import annotations

import faulthandler
import functools
import gc
import os
import signal
import ssl
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import certifi
import psycopg
import pytest
import typer.main
import typer.testing
from hypothesis import HealthCheck, settings
from playwright.async_api import Browser
from sqlalchemy import text
from sqlalchemy.orm import Session

from store.database import Database, normalise_url, psycopg_dsn
from store.embedded import EmbeddedPostgres
from store.migrations import upgrade
from tests.object_store import ObjectStore, object_store
from tests.pages.browser import open_browser
from tests.plain_tracebacks import draw_no_locals
from wire.process.threads import wait_passively

wait_passively()  # before a test module imports torch

# A busy machine generates examples slowly: no fault of theirs.
settings.register_profile("headway", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headway")


_MOST_TO_END_S = 60.0


def pytest_unconfigure(config: pytest.Config) -> None:
    """A thread or a child that outlives the last test would have the run hang for ever, and nobody would know where:
    all threads are shown, and the process ends. Not one of pytest-xdist's workers, which waits for the others when it
    has nothing left: those are killed by the process that started them, 10 s after it told them to end."""
    if not hasattr(config, "workerinput"):
        faulthandler.dump_traceback_later(_MOST_TO_END_S, exit=True)


_E2E = "tests/e2e/"
_SHORT = ("tests/unit/store/", "tests/unit/trainer/", "tests/unit/wire/")
"""Folders of many files that take seconds each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Short files come last, so that no process is left alone for minutes with a long one (`make test` hands out files
    in this order); tests of whole boxes just before, because their session's box stands until the end."""
    items.sort(key=lambda item: item.nodeid.startswith(_E2E) + 2 * item.nodeid.startswith(_SHORT))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Going through ever more modules for garbage took 11 of the 54 s in which all tests are collected."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """All collections of garbage would go through the modules and items of 440 files, 0.8 s each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def commands_leave_our_logging_alone() -> Iterator[None]:
    """A command that runs inside a test would have all later tests log to a stream that was closed with it."""
    draw_no_locals()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wire.process.logging.configure_logging", lambda *_: None)
        yield


_END_OF_CERTIFICATE = "-----END CERTIFICATE-----\n"
_ALL_AUTHORITIES_BYTES = 50_000
"""A file of certificates that is larger holds those of all authorities."""


@pytest.fixture(scope="session", autouse=True)
def http_clients_trust_one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each client of httpx, each of OpenAI's and each server reads the certificates of all authorities, which takes 28
    to 100 ms; with one, half of one. Nothing that a test asks has a certificate of any of them."""
    first, end, _ = Path(certifi.where()).read_text().partition(_END_OF_CERTIFICATE)
    (one := tmp_path_factory.mktemp("authorities") / "one.pem").write_text(first + end)
    load = ssl.SSLContext.load_verify_locations

    def load_one(context: ssl.SSLContext, cafile: Any = None, *others: Any, **named: Any) -> None:
        holds_all = cafile is not None and os.path.getsize(cafile) > _ALL_AUTHORITIES_BYTES
        load(context, one if holds_all else cafile, *others, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl.SSLContext, "load_verify_locations", load_one)
        patch.setattr(ssl.SSLContext, "set_default_verify_paths", lambda context: load(context, one))
        yield


@pytest.fixture(scope="session", autouse=True)
def nobody_waits_for_the_disk() -> Iterator[None]:
    """Files that are written inside a test are fsynced some twenty times each, up to 7 ms. `tests.chaos.power_cut`
    notes which are."""

    def fsync(descriptor: int) -> None:
        os.fstat(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


@pytest.fixture(scope="session", autouse=True)
def commands_are_read_once() -> Iterator[None]:
    """Each call of a command would make all commands of the line anew from their signatures, which takes 0.1 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(autouse=True)
def the_umask_stays() -> Iterator[None]:
    """Commands that run inside a test make all files private from then on."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


def heed_interrupts() -> None:
    """For a child: a test run in the background of a script ignores SIGINT, and its children would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def database_folder() -> Iterator[Path]:
    """A folder that PostgreSQL's own user can reach: pytest closes its temporary folders to all but us."""
    with tempfile.TemporaryDirectory(prefix="headway-test-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of a PostgreSQL, without a schema, whose commits do not wait for the disk: 5 ms each where others write
    too. Only a power cut would show it."""
    with database_folder() as folder:
        postgres = EmbeddedPostgres(folder / "postgres")
        with psycopg.connect(psycopg_dsn(normalise_url(postgres.url)), autocommit=True) as connection:
            connection.execute("alter system set fsync = off")
            connection.execute("select pg_reload_conf()")
        yield postgres.url
        postgres.stop()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with running_postgres() as url:
        upgrade(url)
        yield url


@pytest.fixture(scope="session")
def kept_database(postgres_url: str) -> Iterator[Database]:
    """The session's connections: each pool connects anew and compiles all statements again, 50 ms a test."""
    database = Database(postgres_url)
    yield database
    database.close()


@pytest.fixture
def database(kept_database: Database) -> Database:
    """The session's database, emptied."""
    with kept_database.session() as session:
        _empty(session)
    return kept_database


_TABLES = """
    select relname, pg_relation_size(oid) > 4 * 1024 * 1024 as is_large from pg_class
    where relnamespace = 'public'::regnamespace and relkind = 'r' and relname != 'alembic_version'
"""


def _empty(session: Session) -> None:
    """Rows are deleted: a truncation makes new files for each table and index, which took ten times as long. Large
    tables are truncated, for their pages would be read by all tests that follow."""
    tables = session.execute(text(_TABLES)).all()
    if large := [table.relname for table in tables if table.is_large]:
        session.execute(text(f"truncate {', '.join(large)} cascade"))
    session.execute(text("set local session_replication_role = replica"))  # neither foreign keys nor triggers
    session.execute(text("; ".join(f"delete from {table.relname}" for table in tables)))


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """One object store for the session; a URL of its own for whoever asks."""
    with object_store(tmp_path_factory.mktemp("s3") / "log") as store:
        yield store
