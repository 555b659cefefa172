"""Promotes steps in threads of their own: while one model's files are written, hashed and fsynced, and samplers load
them, the engine computes for other models.

The engine is not touched here. What a step leaves is a snapshot of the weights, and until it has ended no other
operation of its model begins, so the order within a model is as if nothing ran beside it. How each step ended, the
thread that drives the engine collects, and handles as if it had carried all of it out itself. See docs/decisions/0058.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from trainer.worker.promotion import Promotion
from trainer.worker.stepping import AppliedStep

AT_ONCE = 3
"""Each holds a snapshot in memory, and a connection to PostgreSQL while it waits."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A step whose promotion has ended: the node that is the head now, or what it raised."""

    step: AppliedStep
    checkpoint_id: UUID | None = None
    error: BaseException | None = None


class Promotions:
    """Those under way. `begin`, `collect` and `wait` belong to one thread."""

    def __init__(
        self,
        promote: Callable[[AppliedStep, Promotion], UUID],
        new_promotion: Callable[[], Promotion],
        wake: Callable[[], None],
        overdue_s: float,
    ) -> None:
        """`new_promotion`: one for each thread, closed when that ends. `wake` is called, in a thread, whenever one has
        ended. `overdue_s`: after which one may hang."""
        self._promote, self._new_promotion, self._wake = promote, new_promotion, wake
        self._overdue_s = overdue_s
        self._begun: dict[UUID, float] = {}
        self._steps: queue.SimpleQueue[tuple[contextvars.Context, AppliedStep] | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self._change = threading.Event()
        self._threads: list[threading.Thread] = []

    def __len__(self) -> int:
        return len(self._begun)

    def __contains__(self, model_id: UUID) -> bool:
        return model_id in self._begun

    def model_ids(self) -> list[UUID]:
        """Of which a step was begun and not yet collected."""
        return list(self._begun)

    @property
    def must_be_waited_for(self) -> bool:
        """Whether nothing else is to be begun: there are as many as there may be, or one takes so long that it may
        hang, which the watchdog only notices where the engine stands still too."""
        if len(self._begun) >= AT_ONCE:
            return True
        return bool(self._begun) and time.monotonic() - min(self._begun.values()) > self._overdue_s

    def begin(self, step: AppliedStep) -> None:
        """Have the step promoted; returns at once. Log lines and spans are those of the caller's operation."""
        if len(self._threads) <= len(self._begun):
            thread = threading.Thread(target=self._run, name="promotion", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._begun[step.model.id] = time.monotonic()
        self._steps.put((contextvars.copy_context(), step))

    def collect(self) -> Ended | None:
        """One that has ended, once; after this its model may go on."""
        try:
            ended = self._ended.get_nowait()
        except queue.Empty:
            return None
        del self._begun[ended.step.model.id]
        return ended

    def wait(self, timeout_s: float) -> None:
        """Return when one has ended that was not collected, or after a while."""
        self._change.clear()
        if self._ended.empty():
            self._change.wait(timeout_s)

    def close(self, timeout_s: float) -> None:
        """End the threads; what they have not finished by then is lost with the process, and is done again."""
        for _ in self._threads:
            self._steps.put(None)
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._threads.clear()

    def _run(self) -> None:
        promotion = self._new_promotion()
        while (begun := self._steps.get()) is not None:
            context, step = begun
            try:
                ended = Ended(step, context.run(self._promote, step, promotion))
            except BaseException as error:  # whatever it is, the model must not wait for ever
                ended = Ended(step, error=error)
            self._ended.put(ended)
            del begun, context, step, ended  # or the snapshot stays in memory until this thread has another
            self._change.set()
            self._wake()
        promotion.close()
