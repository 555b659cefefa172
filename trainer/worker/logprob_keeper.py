"""Writes the trainer's logprobs of recorded tokens beside the sampler's, for pages and the API.

A thread of its own writes, after the operation was completed: a pass pays for handing its arrays over, and nothing
that goes wrong here is reported except in the log. No torch here.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import structlog

from store.database import Database
from store.oplog.operation import ModelState, Operation
from store.rollouts.digests import sample_digest
from store.rollouts.trainer_logprobs import Pass, keep_trainer_logprobs
from trainer.worker.instruments import TrainerMetrics
from wire.engine import DatumTensors
from wire.trajectories import Batch, Float32Array, Trajectory

log = structlog.get_logger(__name__)

_MOST_WAITING = 32_000_000
"""Tokens of batches that wait to be written, prompts as sent: four bytes each that memory holds meanwhile. One batch
may always wait."""
_CLOSE_S = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    made_by: Pass
    trajectories: Sequence[Trajectory]
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

    def keep(self, operation: Operation, model: ModelState, batch: Batch, rows: Sequence[Float32Array] | None) -> None:
        """Have written down what a pass made of the trajectories that are recorded traces; returns at once.

        rows: of each trajectory, the logprobs of its output tokens, turn by turn.
        """
        if not self._enabled or rows is None or not any(one.trace_id for one in batch.trajectories):
            return
        made_by = Pass(operation.id, model.id, model.head_checkpoint_id, model.head_step)
        self._put(_Scored(made_by, batch.trajectories, rows, batch.num_tokens))

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
            for trajectory, row in zip(scored.trajectories, scored.rows, strict=True):
                if (trace_id := _trace_id(trajectory)) is not None:
                    found = _by_digest(trajectory, row)
                    num_kept += keep_trainer_logprobs(connection, scored.made_by, trace_id, found)
        self._metrics.kept_logprobs("written", num_kept)
        log.debug(
            "trainer_logprobs_kept",
            operation=str(scored.made_by.operation_id),
            samples=num_kept,
            seconds=round(time.perf_counter() - started, 4),
        )

    def _lost(self, scored: _Scored, reason: str) -> None:
        self._metrics.kept_logprobs("lost", sum(len(one.turns) for one in scored.trajectories if one.trace_id))
        log.warning("trainer_logprobs_lost", operation=str(scored.made_by.operation_id), reason=reason)


def rows_of(datums: Sequence[DatumTensors], num_trajectories: int) -> list[Float32Array]:
    """What a forward returned, as rows of trajectories."""
    found: list[list[Float32Array]] = [[] for _ in range(num_trajectories)]
    for datum in datums:
        found[datum.trajectory_index].append(datum.logprobs[datum.mask > 0])
    return [np.concatenate(of_one) for of_one in found]


def _by_digest(trajectory: Trajectory, row: Float32Array) -> dict[bytes, Float32Array]:
    ends = np.cumsum([len(turn.output_ids) for turn in trajectory.turns])
    parts = np.split(row, ends[:-1])
    return {sample_digest(turn): part for turn, part in zip(trajectory.turns, parts, strict=True)}


def _trace_id(trajectory: Trajectory) -> UUID | None:
    try:
        return UUID(trajectory.trace_id) if trajectory.trace_id else None
    except ValueError:  # a client may call its trajectories what it likes
        return None
