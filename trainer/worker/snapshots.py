"""Snapshots: files of nodes, written in the background while training goes on.

A step that promotes nothing leaves no files, so what a crash costs is to compute again all steps since the last node
that has some. Every so many steps, or so many seconds of computing, the node is written by a thread of its own. At
most one of a model waits or is under way; what the disk refuses is tried again; what was not written when the trainer
ends is computed again by whoever needs it.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from store.oplog.work import Lease
from trainer.worker.files import NodeFiles
from trainer.worker.instruments import TrainerMetrics
from wire.engine import Snapshot
from wire.errors import LeaseLost

log = structlog.get_logger(__name__)

_PAUSE_S, _MAX_PAUSE_S = 1.0, 30.0
_CLOSE_S = 10.0


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """After how many steps without files, or how many seconds that they took, a node is written."""

    every_steps: int = 32
    every_s: float = 60.0

    def is_due(self, num_steps: int, seconds: float) -> bool:
        """With so many steps since a node that has files or will soon."""
        return num_steps > 0 and (num_steps >= self.every_steps or seconds >= self.every_s)


@dataclass(slots=True, eq=False)
class _Job:
    lease: Lease
    checkpoint_id: UUID
    snapshot: Snapshot
    pause_s: float = _PAUSE_S
    not_before: float = 0.0
    tried: threading.Event = field(default_factory=threading.Event)


class Snapshots:
    """Those that wait or are being written, by model."""

    def __init__(self, files: NodeFiles, metrics: TrainerMetrics) -> None:
        self._files = files
        self._metrics = metrics
        self._jobs: dict[UUID, _Job] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def takes(self, model_id: UUID) -> bool:
        """Whether there is none of this model."""
        return model_id not in self._jobs

    def write_later(self, lease: Lease, checkpoint_id: UUID, snapshot: Snapshot) -> None:
        """Have this node written, unless another one of its model is; returns at once."""
        with self._changed:
            if self._closing or lease.model_id in self._jobs:
                return
            self._jobs[lease.model_id] = _Job(lease, checkpoint_id, snapshot)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait_for(self, model_id: UUID, checkpoint_id: UUID, timeout_s: float) -> None:
        """Return when an attempt to write this node has ended, whatever came of it; at once if nobody writes it."""
        job = self._jobs.get(model_id)
        if job is not None and job.checkpoint_id == checkpoint_id:
            job.tried.wait(timeout_s)

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """End, once what was not tried yet is written; what the disk has refused is dropped."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            if self._write(job):
                with self._changed:
                    self._jobs.pop(job.lease.model_id, None)
            job.tried.set()

    def _next(self) -> _Job | None:
        with self._changed:
            while True:
                now = time.monotonic()
                first = min(self._jobs.values(), key=lambda job: job.not_before, default=None)
                if self._closing and (first is None or first.tried.is_set()):
                    return None
                if first is not None and first.not_before <= now:
                    return first
                self._changed.wait(None if first is None else first.not_before - now)

    def _write(self, job: _Job) -> bool:
        """Whether that is the end of it."""
        started, about = time.perf_counter(), {"model": str(job.lease.model_id), "checkpoint": str(job.checkpoint_id)}
        try:
            saved = self._files.save(job.lease, job.checkpoint_id, job.snapshot)
        except LeaseLost:
            log.info("snapshot_dropped", **about, reason="another trainer holds the model")
            return True
        except Exception as error:  # training goes on whatever it is: it can do without
            job.not_before, job.pause_s = time.monotonic() + job.pause_s, min(2 * job.pause_s, _MAX_PAUSE_S)
            reason = str(error).partition("\n")[0]
            log.warning(
                "snapshot_failed", **about, error=reason, again_in_s=round(job.not_before - time.monotonic(), 1)
            )
            self._metrics.snapshot("failed")
            return False
        self._metrics.snapshot("written")
        log.info("snapshot_written", **about, seconds=round(time.perf_counter() - started, 4), was_needed=saved)
        return True
