"""Commands whose database refuses their user, or was never migrated, say so in one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from cli.main import app
from store.database import Database, normalise_url, psycopg_dsn

COMMANDS = ["status", "verify", "gc", "audit", "keys list", "drain x", "mirror --once --to tensorboard:{}"]


@pytest.fixture
def stranger(database: Database, postgres_url: str) -> Iterator[str]:
    """The URL of a user without rights."""
    url = normalise_url(postgres_url)
    with psycopg.connect(psycopg_dsn(url), autocommit=True) as connection:
        connection.execute("create role stranger login password 'not-printed'")
        yield url.set(username="stranger", password="not-printed").render_as_string(hide_password=False)
        connection.execute("drop owned by stranger")
        connection.execute("drop role stranger")


@pytest.fixture
def empty(postgres_url: str) -> Iterator[str]:
    """The URL of a database without tables."""
    url = normalise_url(postgres_url)
    with psycopg.connect(psycopg_dsn(url), autocommit=True) as connection:
        connection.execute("create database without_tables")
        yield url.set(database="without_tables").render_as_string(hide_password=False)
        connection.execute("drop database without_tables with (force)")


def ended(url: str, command: str, folder: Path) -> str:
    words = command.format(folder).split()
    result = CliRunner().invoke(app, words, env={"HEADWAY_DATABASE_URL": url, "HEADWAY_DATA_DIR": str(folder)})
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1), result
    return result.stderr


@pytest.mark.parametrize("command", [*COMMANDS, "migrate"])
def test_a_user_without_rights_is_said_what_to_grant(stranger: str, command: str, tmp_path: Path):
    said = ended(stranger, command, tmp_path)
    assert "the database refuses (permission denied for table" in said
    assert "grant its user" in said
    assert "not-printed" not in said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_without_tables_is_to_be_migrated(empty: str, command: str, tmp_path: Path):
    said = ended(empty, command, tmp_path)
    assert "the database lacks what this Headway needs (relation" in said
    assert "run `headway migrate` first" in said


@pytest.mark.parametrize("granted", ["", "grant select on alembic_version, contractions to stranger"])
def test_doctor_lists_what_a_user_without_rights_may_not_do(
    stranger: str, granted: str, postgres_url: str, tmp_path: Path
):
    with psycopg.connect(psycopg_dsn(normalise_url(postgres_url)), autocommit=True) as connection:
        connection.execute(granted.encode())
    arguments = ["doctor", "--json", "--database-url", stranger, "--data-dir", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    checks = {(one["part"], one["what"]): one for one in json.loads(result.stdout)["checks"]}
    assert checks["PostgreSQL", "reachable"]["state"] != "not ok"
    assert "models" in checks["PostgreSQL", "rights"]["found"]
    assert "grant" in checks["PostgreSQL", "rights"]["remedy"]
    assert "the invariants were not checked: " in result.stderr
    if granted:
        assert "permission denied" in checks["planes", "registered"]["found"]


@pytest.mark.usefixtures("database")
def test_the_end_of_a_line_belongs_to_no_name_of_a_database(postgres_url: str, tmp_path: Path):
    environment = {"HEADWAY_DATABASE_URL": f"{postgres_url}\n", "HEADWAY_DATA_DIR": str(tmp_path)}
    result = CliRunner().invoke(app, ["keys", "list"], env=environment)
    assert result.exit_code == 0, result.stderr
