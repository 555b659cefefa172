"""A thread that asks for a trainer for every base that has work and no trainer.

It costs the training calls nothing: it listens for new operations only while some base has no trainer. When the last
trainer of a base stops or has no heartbeat, it looks; while one lives, operations need no starter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from store.database import Database
from store.notify import OPERATION_QUEUED, TRAINERS_CHANGED, Listener
from store.planes.trainer_starts import WantedTrainer, all_served, claim_wanted, start_failed
from store.repeating import RepeatedThread, Rhythm

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 2.0
_AWAY_S = 1.0

Launch = Callable[[WantedTrainer], None]
"""Brings a trainer about. Returns at once, or raises OSError or ValueError with what is wrong."""


class Starter:
    """Looks after these bases (slugs; None: all of them) until closed. `pause_s`: between two attempts, doubling."""

    def __init__(self, url: str, bases: Sequence[str] | None, launch: Launch, pause_s: float) -> None:
        self._bases = list(bases) if bases is not None else None
        self._launch, self._pause_s = launch, pause_s
        self._database = Database(url, pool_size=2)
        self._is_closing = False
        self._quiet = Listener(url, TRAINERS_CHANGED)
        self._alert = Listener(url, TRAINERS_CHANGED, OPERATION_QUEUED)
        self._listener = self._alert
        rhythm = Rhythm(0.0, failed="starter_failed", retry_s=_AWAY_S)
        self._thread = RepeatedThread("starter", self._look_and_wait, rhythm, self._finish)
        self._thread.start()

    def close(self) -> None:
        """Start nothing any more. Does not wait for the thread, which may be listening."""
        self._is_closing = True
        self._thread.stop()

    def look(self) -> bool:
        """Start what is missing; True if every base has a trainer."""
        if self._is_closing:
            return True
        with self._database.connection() as connection:
            wanted = claim_wanted(connection, self._bases, self._pause_s)
        for trainer in wanted:
            self._start(trainer)
        with self._database.connection() as connection:
            return all_served(connection, self._bases)

    def _start(self, wanted: WantedTrainer) -> None:
        log.info("trainer_wanted", base=wanted.base, reason=wanted.reason, attempt=wanted.attempt)
        try:
            self._launch(wanted)
        except (OSError, ValueError) as error:
            log.warning("trainer_not_started", base=wanted.base, error=str(error))
            with self._database.connection() as connection:
                start_failed(connection, wanted.base_id, str(error))

    def _look_and_wait(self) -> None:
        self._listener.listen()
        chosen = self._quiet if self.look() else self._alert
        if chosen is self._listener:
            self._listener.wait(_LOOK_EVERY_S)
        else:  # look again once it listens: what came in between woke nobody
            self._listener.close()
            self._listener = chosen

    def _finish(self) -> None:
        self._listener.close()
        self._database.close()
