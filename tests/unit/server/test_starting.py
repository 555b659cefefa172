"""A start command and a start webhook, on a real database."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from server.background.trainer_launchers import launching_trainers
from server.process.settings import ServerSettings, TrainerStart
from store.database import AsyncDatabase, Database
from store.oplog import leaving
from store.oplog.append import append_operation
from store.planes.trainer_availability import trainer_availability
from tests.unit.conftest import World


async def leave_work_without_trainers(database: Database, async_database: AsyncDatabase, world: World) -> None:
    for trainer_id in (world.trainer_id, world.other_trainer_id):
        with database.connection() as connection:
            leaving.hand_back(connection, trainer_id)
    async with async_database.connection() as connection:
        await append_operation(connection, model_id=world.model_id, kind="forward", payload=b"")


def shortage(database: Database) -> str:
    with database.session() as session:
        return trainer_availability(session)[0].shortage or ""


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def test_the_command_gets_the_base_in_its_environment_and_its_failure_is_told(
    database: Database, async_database: AsyncDatabase, world: World, postgres_url: str, tmp_path: Path
):
    await leave_work_without_trainers(database, async_database, world)
    script = tmp_path / "start one.py"
    script.write_text(
        "import os, pathlib, sys\n"
        f"pathlib.Path({str(tmp_path / 'told')!r}).write_text(os.environ['HEADWAY_BASE'] + os.environ['HEADWAY_QUEUED']"
        " + os.environ['HEADWAY_TRAINER_GPUS'] + os.environ['HEADWAY_DATABASE_URL'])\n"
        "print('asking for a machine')\nprint('quota exceeded')\nsys.exit(3)\n"
    )
    how = TrainerStart(command=f"{sys.executable} '{script}' $(touch {tmp_path / 'shell'})", gpus=4)
    with launching_trainers(ServerSettings(postgres_url, f"file://{tmp_path}", "token", trainer_start=how)):
        until(lambda: "failed: the start command ended with status 3: quota exceeded" in shortage(database))
    assert (tmp_path / "told").read_text() == f"base14{postgres_url}"
    assert not (tmp_path / "shell").exists()


async def test_a_command_that_does_not_exist_is_told(
    database: Database, async_database: AsyncDatabase, world: World, postgres_url: str, tmp_path: Path
):
    await leave_work_without_trainers(database, async_database, world)
    how = TrainerStart(command="/nowhere/start")
    with launching_trainers(ServerSettings(postgres_url, f"file://{tmp_path}", "token", trainer_start=how)):
        until(lambda: "No such file or directory" in shortage(database))


async def test_the_webhook_is_told_the_base_and_why(
    database: Database, async_database: AsyncDatabase, world: World, postgres_url: str, tmp_path: Path
):
    told: list[dict[str, object]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    hook = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    await leave_work_without_trainers(database, async_database, world)
    how = TrainerStart(webhook=f"http://127.0.0.1:{hook.server_port}/", gpus=2)
    with launching_trainers(ServerSettings(postgres_url, f"file://{tmp_path}", "token", trainer_start=how)):
        until(lambda: "500 Internal Server Error" in shortage(database))
    hook.shutdown()
    about = {"base": "base", "queued": 1, "reason": "1 operations wait for a trainer"}
    assert told == [{**about, "attempt": 1, "gpus": 2}]
