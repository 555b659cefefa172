"""A PostgreSQL with the schema of now, made once a process and copied for whoever has to have one of its own: `initdb`
and all migrations take ten times as long as a copy of their 40 MB. Its commits do not wait for the disk, up to 5 ms
each; only a power cut would show it."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import psycopg

from store.database import normalise_url, psycopg_dsn
from store.embedded import EmbeddedPostgres
from store.migrations import upgrade


def lay_out(folder: Path) -> Path:
    """Have `EmbeddedPostgres(folder)` find its files there; returns the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for name in ("", "-password"):
        copied = folder.with_name(folder.name + name)
        subprocess.run(["cp", "-a", f"{_template()}{name}", str(copied)], check=True)  # owners too
    return folder


@cache
def _template() -> Path:
    parent = Path(tempfile.mkdtemp(prefix="headway-test-template-"))
    parent.chmod(0o755)  # PostgreSQL's own user has to get in
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    postgres = EmbeddedPostgres(parent / "postgres")
    upgrade(postgres.url)
    with psycopg.connect(psycopg_dsn(normalise_url(postgres.url)), autocommit=True) as connection:
        connection.execute("alter system set fsync = off")
    postgres.stop()
    return parent / "postgres"
