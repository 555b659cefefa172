"""PostgreSQL and those who ask it notice that the other's machine is gone, though no connection was closed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store.database import DATABASE_AWAY, Database
from tests.fleet.backing import Backing, backing
from tests.fleet.commands import missing
from tests.fleet.network import Network
from tests.fleet.process import REPOSITORY

pytestmark = pytest.mark.fleet
NOTICED_S = 30.0
LOCK = """
import sys, time
from sqlalchemy import text
from store.database import Database
with Database(sys.argv[1]).session() as session:
    session.execute(text("lock table held in exclusive mode"))
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[Network, Backing]]:
    assert not (lacks := missing()), f"simulated hosts need: {'; '.join(lacks)}"
    with Network() as network, backing(network) as services:
        yield network, services


def test_locks_of_a_transaction_end_with_the_machine_that_holds_them(services: tuple[Network, Backing]):
    network, there = services
    with there.connect() as connection:
        connection.execute("create table held ()")
    worker = network.host("worker")
    worker.start([sys.executable, "-c", LOCK, there.database_url], {"PYTHONPATH": str(REPOSITORY)})
    said = worker.folder / "log"
    wait_until(lambda: said.exists() and "locked" in said.read_text(), said)
    network.vanish(worker)
    with there.connect() as connection:
        connection.execute(f"set lock_timeout = '{NOTICED_S} s'".encode())
        with connection.transaction():
            connection.execute("lock table held in exclusive mode")


def test_who_waits_for_an_answer_of_a_machine_that_is_gone_learns_it(services: tuple[Network, Backing]):
    network, there = services
    waiting = network.host("waiting")
    with waiting.inside():
        database = Database(there.database_url)
        with database.connection() as connection:
            connection.execute("select 1")
        network.cut(waiting, there.postgres)
        began = time.monotonic()
        with pytest.raises(DATABASE_AWAY), database.connection() as connection:
            connection.execute("select pg_sleep(1)")
        assert time.monotonic() - began < NOTICED_S, "TCP's own limit is a quarter of an hour"
        network.heal()
        with database.connection() as connection:
            assert connection.execute("select 1").fetchone()[0] == 1
        database.close()


def wait_until(condition: Callable[[], bool], said: Path) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, said.read_text() if said.exists() else "nothing was said"
        time.sleep(0.1)
