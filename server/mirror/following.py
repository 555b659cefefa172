"""Keeps a target up to date with what was committed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from uuid import UUID

import structlog

from server.mirror.base import Target
from store.database import DATABASE_AWAY, Connection, Database
from store.history import committed_steps, trained_models
from wire.errors import Conflict

log = structlog.get_logger(__name__)

_BATCH = 200
_LOCK = 0x68770002  # "hw"
_RETRY_S = 2.0


class Mirror:
    """Copies each model's steps in order, each once: what the target has is asked of it at the start."""

    def __init__(self, database: Database, target: Target, address: str, names: Sequence[str] = ()) -> None:
        """`address`: what makes the target this one; `names`: of the models to mirror, all if there are none."""
        self._database = database
        self._target = target
        self._address = address
        self._names = names
        self._written: dict[UUID, int] = {}

    def follow(self, every_s: float, on_progress: Callable[[str, int], None], *, once: bool = False) -> None:
        """Until what was committed is there, or for ever. Raises Conflict if another process does the same, NotFound
        for a name without a model, and what the database raises if it is away at the start; later it is waited for."""
        started = False
        while True:
            try:
                with self._database.connection() as connection, self._claimed(connection):
                    while True:
                        self.catch_up(on_progress)
                        started = True
                        if once:
                            return
                        time.sleep(every_s)
                        connection.execute("select 1")  # whether the claim still stands
            except DATABASE_AWAY as error:
                if not started or once:
                    raise
                log.warning("database_away", error=str(error).partition("\n")[0])
                time.sleep(_RETRY_S)

    def catch_up(self, on_progress: Callable[[str, int], None] = lambda model, num_steps: None) -> None:
        """Write what is not there yet. `on_progress`: the model, and how many of its steps are there now."""
        with self._database.session() as session:
            models = trained_models(session, self._names)
        for model in models:
            if not model.num_steps:
                continue
            if model.id not in self._written:
                self._written[model.id] = self._target.num_written(model)
            while self._written[model.id] < model.num_steps:
                with self._database.session() as session:
                    steps = committed_steps(session, model.id, self._written[model.id], _BATCH)
                if not steps:
                    break
                self._target.write(model, steps)
                self._written[model.id] = steps[-1].order
                on_progress(model.slug, steps[-1].order)

    @contextmanager
    def _claimed(self, connection: Connection) -> Generator[None]:
        """One process a target: two would write every step twice. PostgreSQL takes a dead process's claim back."""
        number = int.from_bytes(hashlib.sha256(self._address.encode()).digest()[:4], signed=True)
        (row,) = connection.execute("select pg_try_advisory_lock(%s, %s) as mine", (_LOCK, number))
        if not row.mine:
            raise Conflict(f"another process mirrors to {self._address}; end it first")
        try:
            yield
        finally:
            if not connection.closed:
                connection.execute("select pg_advisory_unlock(%s, %s)", (_LOCK, number))
