"""Starts trainers on demand: by a command on this machine, or by a POST to a webhook."""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import IO

import httpx
import structlog

from server.process.settings import ServerSettings, TrainerStart
from store.database import DATABASE_AWAY, Database
from store.planes.trainer_starts import WantedTrainer, start_failed
from store.starter import Launch, Starter
from wire.process.lifeline import VARIABLE

log = structlog.get_logger(__name__)

_WEBHOOK_TIMEOUT_S = 30.0

Failed = Callable[[WantedTrainer, str], None]
"""Notes, for those who wait, why an attempt came to nothing."""


@contextmanager
def launching_trainers(settings: ServerSettings) -> Generator[None]:
    """See to trainers until the block ends, if the settings say how. What was started goes on."""
    how = settings.trainer_start
    if how is None or not (how.command or how.webhook):
        yield
        return
    database = Database(settings.database_url, pool_size=1)
    failed = _noting(database)
    launch = _command(how, settings, failed) if how.command else _webhook(how, failed)
    starter = Starter(settings.database_url, None, launch, how.pause_s)
    try:
        yield
    finally:
        starter.close()
        database.close()


def _noting(database: Database) -> Failed:
    def failed(wanted: WantedTrainer, error: str) -> None:
        log.warning("trainer_start_failed", base=wanted.base, error=error)
        try:
            with database.connection() as connection:
                start_failed(connection, wanted.base_id, error)
        except DATABASE_AWAY:
            log.warning("failure_not_noted", base=wanted.base)

    return failed


def _command(how: TrainerStart, settings: ServerSettings, failed: Failed) -> Launch:
    """Runs the operator's command line, split without a shell. What it is about comes in its environment: base slugs
    are the operator's too, and nothing that a client wrote is passed on."""
    argv = shlex.split(how.command or "")
    database_url = {"HEADWAY_DATABASE_URL": settings.database_url}

    def launch(wanted: WantedTrainer) -> None:
        about = {
            "HEADWAY_BASE": wanted.base,
            "HEADWAY_QUEUED": str(wanted.num_queued),
            "HEADWAY_START_ATTEMPT": str(wanted.attempt),
            "HEADWAY_TRAINER_GPUS": str(how.gpus),
        }
        inherited = {name: value for name, value in os.environ.items() if name != VARIABLE}
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**inherited, **database_url, **about},
            start_new_session=True,
        )
        threading.Thread(target=_follow, args=(process, wanted, failed), daemon=True).start()

    return launch


def _follow(process: subprocess.Popen[bytes], wanted: WantedTrainer, failed: Failed) -> None:
    output: IO[bytes] | None = process.stdout
    assert output is not None
    last = "it said nothing"
    for line in output:
        if words := line.decode(errors="replace").strip():
            last = words
            log.info("trainer_start_output", base=wanted.base, line=words)
    if status := process.wait():
        failed(wanted, f"the start command ended with status {status}: {last}")


def _webhook(how: TrainerStart, failed: Failed) -> Launch:
    def post(wanted: WantedTrainer) -> None:
        about = {"base": wanted.base, "queued": wanted.num_queued, "reason": wanted.reason}
        body = {**about, "attempt": wanted.attempt, "gpus": how.gpus}
        try:
            httpx.post(how.webhook or "", json=body, timeout=_WEBHOOK_TIMEOUT_S).raise_for_status()
        except httpx.HTTPError as error:
            failed(wanted, f"the start webhook: {error}")

    def launch(wanted: WantedTrainer) -> None:
        threading.Thread(target=post, args=(wanted,), daemon=True).start()

    return launch
