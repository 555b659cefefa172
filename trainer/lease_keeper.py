"""A thread that keeps a trainer's heartbeat and leases alive while its main thread computes."""

from __future__ import annotations

import threading
from uuid import UUID

import structlog

from store.database import DATABASE_AWAY, Database
from store.oplog import leases
from store.planes import HEARTBEAT_S, heartbeat, say_goodbye
from store.tables import TrainerRow

log = structlog.get_logger(__name__)


class LeaseKeeper:
    """Renews until closed; then gives every lease back, so that another trainer can go on at once."""

    def __init__(self, database: Database, trainer_id: UUID) -> None:
        self._database = database
        self._trainer_id = trainer_id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop renewing and give the leases back."""
        self._stop.set()
        self._thread.join()
        try:
            with self._database.session() as session:
                leases.release_all(session, self._trainer_id)
                say_goodbye(session, TrainerRow, self._trainer_id)
        except DATABASE_AWAY:
            log.warning("leases_not_released", reason="the database is away; they run out by themselves")

    def _run(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                with self._database.session() as session:
                    heartbeat(session, TrainerRow, self._trainer_id)
                    leases.renew_all(session, self._trainer_id)
            except Exception as error:  # without this thread the leases would run out under a process that works
                log.warning("heartbeat_missed", error=str(error).splitlines()[0], kind=type(error).__name__)
