"""The trainers of `headway up`: running all the time, or started on demand and ended when there is no work."""

from __future__ import annotations

import queue
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from cli.box.children import Child, Children, Death
from cli.box.runner import RUNNER
from store.database import DATABASE_AWAY, Database
from store.oplog.leaving import release_dead
from store.placements.presence import runner_died
from store.planes.trainer_availability import trainer_availability
from store.planes.trainer_starts import WantedTrainer, start_failed
from store.starter import Starter

log = structlog.get_logger(__name__)

_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class OnDemand:
    """Trainers end after so long without work."""

    idle_exit_s: float


class Trainers:
    """Starts trainers as children, and releases the leases of dead ones, so that nobody waits for these to run out.
    What a dead runner held goes to others in the same way."""

    def __init__(
        self,
        children: Children,
        url: str,
        slugs: list[str],
        environment: Mapping[str, str],
        on_demand: OnDemand | None,
    ) -> None:
        self._children, self._slugs, self._environment = children, slugs, dict(environment)
        self._on_demand = on_demand
        self._database = Database(url, pool_size=1)
        self._wanted: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._starter = Starter(url, slugs, self._launch, _PAUSE_S) if on_demand else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._starter is not None:
            self._starter.close()
        self._database.close()

    def start(self) -> None:
        """Those that must be there from the start: on demand, of bases that no trainer has ever described."""
        with self._database.session() as session:
            loaded = {supply.base for supply in trainer_availability(session) if supply.is_loaded}
        for slug in self._slugs:
            if self._on_demand is None or slug not in loaded:
                self._start(slug)

    def restart_dead(self) -> None:
        """Start what was asked for, and look after the children."""
        while not self._wanted.empty():
            self._start(self._wanted.get())
        for death in self._children.restart_dead():
            if death.child.name.startswith("trainer-"):
                self._settle(death)
            elif death.child.name == RUNNER:
                self._settle_runner(death)

    def _launch(self, wanted: WantedTrainer) -> None:
        self._wanted.put(wanted.base)

    def _start(self, slug: str) -> None:
        if self._children.is_running(f"trainer-{slug}"):
            return
        command = [sys.executable, "-m", "cli", "trainer", "--base", slug]
        if self._on_demand is not None:
            command += ["--idle-exit-seconds", str(self._on_demand.idle_exit_s)]
        stays_down = self._on_demand is not None
        child = Child(f"trainer-{slug}", command, self._environment, stays_down=stays_down, is_forked=True)
        self._children.start(child)

    def _settle(self, death: Death) -> None:
        slug = death.child.name.removeprefix("trainer-")
        try:
            with self._database.connection() as connection:
                release_dead(connection, socket.gethostname(), death.pid)
            if self._on_demand is not None and death.status:
                self._note_failure(slug, f"ended with status {death.status}: {death.last_words}")
        except DATABASE_AWAY:
            log.warning("dead_trainer_not_settled", base=slug)

    def _settle_runner(self, death: Death) -> None:
        try:
            with self._database.connection() as connection:
                runner_died(connection, socket.gethostname(), death.pid)
        except DATABASE_AWAY:
            log.warning("dead_runner_not_settled")

    def _note_failure(self, slug: str, error: str) -> None:
        with self._database.session() as session:
            (base_id,) = [supply.base_id for supply in trainer_availability(session) if supply.base == slug]
        with self._database.connection() as connection:
            start_failed(connection, base_id, error)
