"""A thread that keeps a trainer's heartbeat and leases alive while its main thread computes."""

from __future__ import annotations

from uuid import UUID

import structlog

from store.database import DATABASE_AWAY, Database
from store.oplog import leases, leaving
from store.planes.heartbeats import HEARTBEAT_S
from store.repeating import RepeatedThread, Rhythm
from wire.process.faults import fault_point

log = structlog.get_logger(__name__)


class LeaseKeeper:
    """Renews until closed; then gives every lease back, so that another trainer can go on at once."""

    def __init__(self, database: Database, trainer_id: UUID, ttl_s: float = leases.LEASE_TTL_S) -> None:
        self._database = database
        self._trainer_id = trainer_id
        self._ttl_s = ttl_s
        self._renew_every_s = min(HEARTBEAT_S, ttl_s / 5)  # a renewal may come late, or not at all
        self._start()

    def close(self) -> None:
        """Stop renewing, and give back the leases and the operation under way."""
        self._pause()
        try:
            with self._database.connection() as connection:
                leaving.hand_back(connection, self._trainer_id)
        except DATABASE_AWAY:
            log.warning("leases_not_released", reason="the database is away; they run out by themselves")

    def leave_if_idle(self) -> bool:
        """Mark the trainer as stopped unless there is work for it; then it goes on. Call from the thread that works."""
        self._pause()  # a heartbeat would clear the mark
        left = False
        try:
            with self._database.connection() as connection:
                left = leaving.leave_if_idle(connection, self._trainer_id)
        finally:
            if not left:
                self._start()
        return left

    def _start(self) -> None:
        rhythm = Rhythm(self._renew_every_s, failed="heartbeat_missed")
        self._thread = RepeatedThread("lease-keeper", self._renew, rhythm)
        self._thread.start()

    def _pause(self) -> None:
        self._thread.close()

    def _renew(self) -> None:
        fault_point("lease:before-renew")
        with self._database.connection() as connection:
            renewed = leases.beat(connection, self._trainer_id, self._ttl_s)
        if not renewed:
            with self._database.session() as session:
                leases.renew_all(session, self._trainer_id, self._ttl_s)
        fault_point("lease:after-renew")
