"""What is left of an operation once the engine is done with it, in threads of its own: files that are written, hashed
and fsynced, samplers that load them, and the statement by which it ends. Meanwhile the engine computes for other
models.

The engine is not touched here. A step leaves a snapshot of the weights, a pass its figures, and until all of it has
ended no other operation of its model begins, so the order within a model is as if nothing ran beside it. How each
ended, the thread that drives the engine collects, and handles as if it had carried all of it out itself. See
docs/decisions/0058.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from store.oplog.operation import ModelState, Operation
from store.oplog.work import Lease
from trainer.worker.promotion import Promotion

AT_ONCE = 3
"""Of those that wait for samplers. Each may hold a snapshot in memory, and a connection to PostgreSQL."""
_IDLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Continuation:
    """carry_out: without the engine, in another thread. finish: in the thread that drives the engine, with what
    `carry_out` returned.

    is_brief: it waits for no sampler. opens_again: when it fails, what the engine holds of the model is no node's.
    """

    lease: Lease
    operation: Operation
    model: ModelState
    carry_out: Callable[[Promotion], Any]
    finish: Callable[[Any], None]
    is_brief: bool = False
    opens_again: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """One that has ended: what it returned, or what it raised."""

    continuation: Continuation
    result: Any = None
    error: BaseException | None = None


class Continuations:
    """Those under way. `begin`, `collect` and `wait` belong to one thread."""

    def __init__(self, new_promotion: Callable[[], Promotion], wake: Callable[[], None], overdue_s: float) -> None:
        """`new_promotion`: one for each thread, closed when that ends. `wake` is called, in a thread, whenever one has
        ended. `overdue_s`: after which one may hang."""
        self._new_promotion, self._wake = new_promotion, wake
        self._overdue_s = overdue_s
        self._begun: dict[UUID, tuple[Continuation, float]] = {}
        self._waiting: queue.SimpleQueue[tuple[contextvars.Context, Continuation] | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self._change = threading.Event()
        self._threads: list[threading.Thread] = []

    def __len__(self) -> int:
        return len(self._begun)

    def __contains__(self, model_id: UUID) -> bool:
        return model_id in self._begun

    def model_ids(self) -> list[UUID]:
        """Of which one was begun and not yet collected."""
        return list(self._begun)

    @property
    def has_brief(self) -> bool:
        """Whether a brief one is under way."""
        return any(one.is_brief for one, _ in self._begun.values())

    @property
    def must_be_waited_for(self) -> bool:
        """Whether nothing else is to be begun: there are as many as there may be, or one takes so long that it may
        hang, which the watchdog only notices where the engine stands still too."""
        if sum(not one.is_brief for one, _ in self._begun.values()) >= AT_ONCE:
            return True
        return any(time.monotonic() - begun_at > self._overdue_s for _, begun_at in self._begun.values())

    def begin(self, continuation: Continuation) -> None:
        """Have it carried out; returns at once. Log lines and spans are those of the caller's operation."""
        if len(self._threads) <= len(self._begun):
            thread = threading.Thread(target=self._run, name="continuation", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._begun[continuation.model.id] = (continuation, time.monotonic())
        self._waiting.put((contextvars.copy_context(), continuation))

    def collect(self) -> Ended | None:
        """One that has ended, once; after this its model may go on."""
        try:
            ended = self._ended.get_nowait()
        except queue.Empty:
            return None
        del self._begun[ended.continuation.model.id]
        return ended

    def wait(self, timeout_s: float) -> None:
        """Return when one has ended that was not collected, or after a while."""
        self._change.clear()
        if self._ended.empty():
            self._change.wait(timeout_s)

    def close(self, timeout_s: float) -> None:
        """End the threads; what they have not finished by then is lost with the process, and is done again."""
        for _ in self._threads:
            self._waiting.put(None)
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._threads.clear()

    def _run(self) -> None:
        promotion = self._new_promotion()
        while (begun := self._next(promotion)) is not None:
            context, continuation = begun
            try:
                ended = Ended(continuation, context.run(continuation.carry_out, promotion))
            except BaseException as error:  # whatever it is, the model must not wait for ever
                ended = Ended(continuation, error=error)
            self._ended.put(ended)
            del begun, context, continuation, ended  # or the snapshot stays in memory until this thread has another
            self._change.set()
            self._wake()
        promotion.close()

    def _next(self, promotion: Promotion) -> tuple[contextvars.Context, Continuation] | None:
        """None at the end. A promotion that has not waited for a while listens no more."""
        promotion.rest_after(_IDLE_S)
        try:
            return self._waiting.get(timeout=_IDLE_S)
        except queue.Empty:
            promotion.rest_after(0.0)
            return self._waiting.get()
