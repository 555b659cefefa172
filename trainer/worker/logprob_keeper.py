"""Writes the trainer's logprobs of recorded tokens beside the sampler's, for pages and the API.

A thread of its own writes, after the operation was completed: a pass pays for handing its arrays over, and nothing
that goes wrong here is reported except in the log. No torch here.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import structlog

from store.database import Database
from store.oplog.operation import ModelState, Operation
from store.rollouts.digests import sample_digest
from store.rollouts.trainer_logprobs import Pass, keep_trainer_logprobs
from trainer.worker.instruments import TrainerMetrics
from wire.datums import Datum, by_trajectory
from wire.trajectories import Float32Array

log = structlog.get_logger(__name__)

_MOST_WAITING = 32_000_000
"""Tokens of datums that wait to be written: four bytes each that memory holds meanwhile. One batch
may always wait."""
_CLOSE_S = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    made_by: Pass
    datums: Sequence[Datum]
    rows: Sequence[Float32Array]
    num_tokens: int


class LogprobKeeper:
    """Takes results of passes and writes them down in the order in which they came."""

    def __init__(self, database: Database, metrics: TrainerMetrics, *, enabled: bool = True) -> None:
        self._database = database
        self._metrics = metrics
        self._enabled = enabled
        self._waiting: deque[_Scored] = deque()
        self._num_waiting = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def keep(
        self, operation: Operation, model: ModelState, datums: Sequence[Datum], rows: Sequence[Float32Array] | None
    ) -> None:
        """Have written down what a pass made of the datums that are of recorded traces; returns at once.

        rows: of each datum, the logprobs of its scored positions.
        """
        if not self._enabled or rows is None or not any(datum.origin.trace_id for datum in datums):
            return
        made_by = Pass(operation.id, model.id, model.head_checkpoint_id, model.head_step)
        self._put(_Scored(made_by, datums, rows, sum(datum.num_tokens for datum in datums)))

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """Write what waits, for so long at most. What was not written by then is lost."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _put(self, scored: _Scored) -> None:
        with self._changed:
            if self._closing or (self._num_waiting and self._num_waiting + scored.num_tokens > _MOST_WAITING):
                self._lost(scored, "too much waits to be written")
                return
            self._waiting.append(scored)
            self._num_waiting += scored.num_tokens
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="trainer-logprobs", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                scored = self._waiting.popleft()
            try:
                self._write(scored)
            except Exception as error:  # nobody depends on this, and the next batch may go well
                self._lost(scored, str(error).partition("\n")[0])
            with self._changed:
                self._num_waiting -= scored.num_tokens

    def _write(self, scored: _Scored) -> None:
        started, num_kept = time.perf_counter(), 0
        with self._database.connection() as connection:
            rows = dict(zip(scored.datums, scored.rows, strict=True))
            for datums in by_trajectory(scored.datums):
                if (trace_id := _trace_id(datums[0])) is not None:
                    found = _by_digest({datum: rows[datum] for datum in datums})
                    num_kept += keep_trainer_logprobs(connection, scored.made_by, trace_id, found)
        self._metrics.kept_logprobs("written", num_kept)
        log.debug(
            "trainer_logprobs_kept",
            operation=str(scored.made_by.operation_id),
            samples=num_kept,
            seconds=round(time.perf_counter() - started, 4),
        )

    def _lost(self, scored: _Scored, reason: str) -> None:
        self._metrics.kept_logprobs("lost", sum(len(datum.spans) for datum in scored.datums if datum.origin.trace_id))
        log.warning("trainer_logprobs_lost", operation=str(scored.made_by.operation_id), reason=reason)


def _by_digest(rows: Mapping[Datum, Float32Array]) -> dict[bytes, Float32Array]:
    found = dict[bytes, Float32Array]()
    for datum, row in rows.items():
        ends = np.cumsum(datum.spans[:, 1] - datum.spans[:, 0])
        parts = np.split(row, ends[:-1])
        found |= {sample_digest(turn): part for turn, part in zip(datum.turns(), parts, strict=True)}
    return found


def _trace_id(datum: Datum) -> UUID | None:
    try:
        return UUID(datum.origin.trace_id) if datum.origin.trace_id else None
    except ValueError:  # a client may call its trajectories what it likes
        return None
