"""Releases run against newer schemas until these are contracted, and refuse others with a sentence."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import psycopg
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from cli.main import app
from migrations.contracting import OlderPlanesRun, contract
from store.backup.writing import back_up
from store.blob_stores.file import FileBlobStore
from store.catalog import ensure_base
from store.checkpoint_stores import open_checkpoint_store
from store.database import AsyncDatabase, Database, normalise_url, psycopg_dsn
from store.migrations import alembic_config, upgrade
from store.planes.presence import Presence
from store.planes.registration import register_sampler, register_trainer
from store.schema import IncompatibleSchema, Schema, newest_revision, read_schema, require_schema
from tests.unit.store.conftest import new_database
from wire.errors import Conflict
from wire.loaded import Loaded

KNOWN = newest_revision()
NEXT = f"{int(KNOWN) + 1:04}"


@pytest.fixture
def empty_url(postgres_url: str) -> Iterator[str]:
    """A database without a schema."""
    with new_database(postgres_url) as url:
        yield url


@pytest.fixture
def url(postgres_url: str, schema_without_rows: str) -> Iterator[str]:
    """A database of this release."""
    with new_database(postgres_url, template=schema_without_rows) as url:
        yield url


def execute(url: str, statement: str) -> None:
    with psycopg.connect(psycopg_dsn(normalise_url(url)), autocommit=True) as connection:
        connection.execute(statement.encode())


def is_migrated_by_a_later_release(url: str) -> None:
    execute(url, f"update alembic_version set version_num = '{NEXT}'")


def headway(url: str, *arguments: str):
    environment = {"HEADWAY_DATABASE_URL": url, "HEADWAY_SAMPLER_TOKEN": "t", "HEADWAY_BASE": "b"}
    return CliRunner().invoke(app, arguments, env=environment)


def test_the_newest_revision_is_alembics_head():
    assert ScriptDirectory.from_config(alembic_config("postgresql:///")).get_current_head() == KNOWN


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        (Schema(None), "no tables of Headway yet: run `headway migrate`"),
        (Schema("0001"), f"has schema 0001, and this Headway .* needs {KNOWN}: run `headway migrate`"),
        (Schema("9000", NEXT, "7.0"), f"releases before 7.0 cannot use; .* with schema {KNOWN}: start a later one"),
    ],
)
def test_a_schema_that_does_not_fit_is_refused_with_what_to_do(schema: Schema, sentence: str):
    with pytest.raises(IncompatibleSchema, match=sentence):
        schema.require(KNOWN)


@pytest.mark.parametrize("schema", [Schema(KNOWN), Schema("9000"), Schema("9000", KNOWN, "0.1")])
def test_a_release_runs_against_its_own_schema_and_later_ones(schema: Schema):
    schema.require(KNOWN)


@pytest.mark.parametrize("plane", ["server", "trainer", "sampler"])
def test_a_plane_refuses_a_database_without_its_schema(empty_url: str, plane: str):
    refused = headway(empty_url, plane)
    assert refused.exit_code == 1
    assert refused.stderr.endswith("the database has no tables of Headway yet: run `headway migrate`\n")


def test_migrate_leaves_the_schema_of_a_later_release_as_it_is(url: str):
    is_migrated_by_a_later_release(url)
    done = headway(url, "migrate")
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        f"the database has schema {NEXT}: a later release's, which this one ({KNOWN}) runs against\n"
    )


def test_migrate_refuses_a_schema_without_what_this_release_uses(url: str):
    is_migrated_by_a_later_release(url)
    execute(url, f"insert into contractions values ('{NEXT}', '{NEXT}', '7.0')")
    refused = headway(url, "migrate")
    assert refused.exit_code == 1
    assert "releases before 7.0 cannot use" in refused.stderr


def test_a_backup_of_a_later_schema_is_left_to_later_releases(url: str, tmp_path: Path):
    is_migrated_by_a_later_release(url)
    database = Database(url)
    checkpoints = open_checkpoint_store(f"file://{tmp_path / 'checkpoints'}")
    with pytest.raises(Conflict, match="back it up with the newest release"):
        back_up(database, checkpoints, FileBlobStore(tmp_path / "blobs"), tmp_path / "backup")
    database.close()


def test_a_contraction_waits_until_no_older_plane_runs(url: str):
    database = Database(url)
    with database.session() as session:
        register_sampler(session, ensure_base(session, "b", "/models/b"), "http://s", "local", Loaded(version="0.1"))
    with pytest.raises(OlderPlanesRun, match=r"releases before 7\.0 use, and these run: sampler .* \(0\.1\)"):
        _contract(url, oldest_revision=NEXT)
    assert read_schema(url) == Schema(KNOWN)
    _contract(url, oldest_revision=KNOWN)
    assert read_schema(url) == Schema(KNOWN, KNOWN, "7.0")
    database.close()


PLANES = {
    "trainer": lambda session, base_id: register_trainer(session, base_id, {}, is_loading=True),
    "sampler": lambda session, base_id: register_sampler(session, base_id, "http://s", "local", Loaded(version="0.1")),
}


@pytest.mark.parametrize("plane", PLANES)
def test_a_plane_that_registers_first_keeps_a_contraction_away(url: str, plane: str):
    """Its transaction is still open when the migration begins, which sees nothing of it before it is committed."""
    database, begun = Database(url), threading.Event()
    with ThreadPoolExecutor() as threads:
        with database.session() as session:
            PLANES[plane](session, ensure_base(session, "b", "/models/b"))
            contraction = threads.submit(_contract, url, NEXT, begun)
            assert begun.wait(60)
            waits_for_a_lock(url)
        with pytest.raises(OlderPlanesRun, match=f"and these run: {plane}"):
            contraction.result(60)
    assert read_schema(url) == Schema(KNOWN)
    database.close()


@pytest.mark.parametrize("plane", PLANES)
def test_a_plane_that_registers_while_a_migration_contracts_is_refused(url: str, plane: str):
    """It has looked at the schema before, and loaded for minutes since."""
    database = Database(url)
    with database.session() as session:
        base_id = ensure_base(session, "b", "/models/b")
    with database.connection() as connection:
        require_schema(connection)

    def register() -> None:
        with database.session() as session:
            PLANES[plane](session, base_id)

    with ThreadPoolExecutor() as threads:
        with contracting(url, NEXT):
            registration = threads.submit(register)
            waits_for_a_lock(url)
        with pytest.raises(IncompatibleSchema, match=r"releases before 7\.0 cannot use"):
            registration.result(60)
    database.close()


def test_a_trainer_of_this_release_that_loads_is_no_older_plane(url: str):
    database = Database(url)
    with database.session() as session:
        PLANES["trainer"](session, ensure_base(session, "b", "/models/b"))
    _contract(url, oldest_revision=KNOWN)
    assert read_schema(url) == Schema(KNOWN, KNOWN, "7.0")
    database.close()


async def test_a_server_that_comes_while_a_migration_contracts_ends(url: str):
    database, presence, ended = AsyncDatabase(url, pool_size=1), Presence(), list[bool]()
    presence.details, presence.when_contracted = {"schema": KNOWN}, lambda: ended.append(True)
    async with database.connection() as connection:
        with contracting(url, NEXT):
            announcing = asyncio.create_task(presence.announce(connection))
            await asyncio.to_thread(waits_for_a_lock, url)
        await announcing
        assert ended == [True]
        assert not presence.is_listed
    await database.close()


async def test_a_server_that_is_there_keeps_a_contraction_away(url: str):
    database, presence = AsyncDatabase(url, pool_size=1), Presence()
    presence.details = {"schema": KNOWN}
    async with database.connection() as connection:
        await presence.announce(connection)
        assert presence.is_listed
        with pytest.raises(OlderPlanesRun, match="and these run: server"):
            await asyncio.to_thread(_contract, url, NEXT)
    await database.close()


def waits_for_a_lock(url: str) -> None:
    """Until some statement does."""
    waiting = b"select count(*) from pg_locks where not granted and relation = 'contractions'::regclass"
    deadline = time.monotonic() + 60
    with psycopg.connect(psycopg_dsn(normalise_url(url)), autocommit=True) as connection:
        while connection.execute(waiting).fetchall() == [(0,)]:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@contextmanager
def contracting(url: str, oldest_revision: str, begun: threading.Event | None = None) -> Iterator[None]:
    """The transaction of a migration that has called `contract`, and commits after the block."""
    engine = create_engine(normalise_url(url))
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        if begun:
            begun.set()
        contract(NEXT, oldest_revision=oldest_revision, oldest_release="7.0")
        yield
    engine.dispose()


def _contract(url: str, oldest_revision: str, begun: threading.Event | None = None) -> None:
    with contracting(url, oldest_revision, begun):
        pass


def test_processes_that_migrate_at_once_take_turns(empty_url: str):
    environment = {**os.environ, "HEADWAY_DATABASE_URL": empty_url}
    started = [subprocess.Popen([sys.executable, "-m", "cli", "migrate"], env=environment) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    assert read_schema(empty_url) == Schema(KNOWN)


def test_a_migration_gives_way_to_a_long_transaction_and_is_begun_again(url: str, monkeypatch: pytest.MonkeyPatch):
    """While it waits for a lock, every statement that comes after it waits, too."""
    execute(url, "drop table contractions, sampler_demands, service")
    execute(url, "update alembic_version set version_num = '0020'")
    engine = create_engine(normalise_url(url))
    with engine.connect() as connection:
        connection.execute(text("lock table alembic_version in access share mode"))
        connection.execute(text("lock table alembic_version in share mode"))  # keeps migrations from noting themselves
        gave_way = Mock(side_effect=lambda *_, **__: connection.rollback())
        monkeypatch.setattr("store.migrations.log.info", gave_way)
        monkeypatch.setattr("store.migrations._PAUSE_S", 0.0)
        upgrade(url)
    gave_way.assert_called_once()
    assert read_schema(url) == Schema(KNOWN)
    engine.dispose()
