"""Whose keys `headway up` writes where."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.box.up import write_keys
from cli.commands.keys import create_key, role_of
from cli.service.environment import read_env, sdk_exports, write_env
from store.database import Database

ORIGIN = "http://127.0.0.1:8420"


@pytest.fixture
def url(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


def keys_in(folder: Path) -> tuple[str, str]:
    return tuple(read_env(folder / name)["HUD_API_KEY"] for name in ("env", "admin-env"))


def test_keys_that_work_stay(url: str, tmp_path: Path):
    exports = write_keys(url, tmp_path, ORIGIN)
    first = keys_in(tmp_path)
    assert exports["HUD_API_KEY"] == first[0]
    assert exports["TINKER_API_KEY"] == f"tml-{first[0]}"
    assert exports["TINKER_BASE_URL"] == ORIGIN
    assert role_of(url, exports["TINKER_API_KEY"]) == "member"
    assert [role_of(url, key) for key in first] == ["member", "admin"]
    assert write_keys(url, tmp_path, "http://127.0.0.1:9")["HUD_API_URL"] == "http://127.0.0.1:9"
    assert keys_in(tmp_path) == first


def test_an_admins_key_that_an_earlier_version_gave_to_the_sdk_moves_to_the_operators_file(url: str, tmp_path: Path):
    old = create_key(url, team="default", name="headway up", role="admin")
    write_env(tmp_path / "env", sdk_exports(ORIGIN, old))
    write_keys(url, tmp_path, ORIGIN)
    member, admin = keys_in(tmp_path)
    assert admin == old
    assert role_of(url, member) == "member"


def test_keys_of_another_database_are_replaced(url: str, tmp_path: Path):
    for name in ("env", "admin-env"):
        write_env(tmp_path / name, sdk_exports(ORIGIN, "hw_of_elsewhere"))
    write_keys(url, tmp_path, ORIGIN)
    assert [role_of(url, key) for key in keys_in(tmp_path)] == ["member", "admin"]
