from __future__ import annotations

import os
import signal
import time

import psycopg

from store.database import normalise_url, psycopg_dsn
from store.embedded import EmbeddedPostgres
from tests.conftest import database_folder


def test_an_embedded_database_that_was_killed_is_started_again_with_what_it_had():
    with database_folder() as folder:
        postgres = EmbeddedPostgres(folder / "postgres")
        dsn = psycopg_dsn(normalise_url(postgres.url))
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("create table kept as select 7 as number")
        with postgres.kept_alive():
            os.kill(int((folder / "postgres" / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
            assert number_in(dsn) == 7
        postgres.stop()


def number_in(dsn: str) -> int:
    deadline = time.monotonic() + 30
    while True:
        try:
            with psycopg.connect(dsn) as connection:
                return connection.execute("select number from kept").fetchone()[0]
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, "nobody started it again"
            time.sleep(0.2)
