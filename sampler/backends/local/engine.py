"""The loop: one thread that owns the model, and steps as long as anyone wants a token."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog
import torch

from sampler.backends.local.event_stream import Delivery
from sampler.backends.local.packed_step import PackedModel
from sampler.backends.local.scheduler import Scheduler
from sampler.backends.local.scoring import ScoringTask, score_prompt
from sampler.backends.local.sequence import Sequence
from sampler.backends.local.token_sampling import SampledToken, sample_tokens
from wire.errors import HeadwayError, InvalidRequest, Unavailable

log: Any = structlog.get_logger(__name__)

_STALLED_S = 300.0
"""A step that takes so long hangs. (The longest prompt of a large base takes minutes on a slow processor.)"""


class Engine:
    """Submit and cancel from any thread. Each step's events leave in one call of `post`, from the engine's thread."""

    def __init__(
        self,
        model: PackedModel,
        scheduler: Scheduler,
        post: Callable[[list[Delivery]], None],
        stalled_s: float = _STALLED_S,
    ) -> None:
        self._model = model
        self._scheduler = scheduler
        self._post = post
        self._wake = threading.Condition()
        self._arrived: list[Sequence] = []
        self._scorings: deque[ScoringTask] = deque()
        self._closing = False
        self._stalled_s = stalled_s
        self._step_began_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="local-sampler", daemon=True)

    def start(self) -> None:
        """Begin to step."""
        self._thread.start()

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises Unavailable when the engine is closing."""
        with self._wake:
            if self._closing:
                raise _shutting_down()
            self._arrived.append(sequence)
            self._wake.notify()

    def submit_scoring(self, task: ScoringTask) -> None:
        """Queue a prompt to be scored; one is between two steps. Raises Unavailable when the engine is closing."""
        with self._wake:
            if self._closing:
                raise _shutting_down()
            self._scorings.append(task)
            self._wake.notify()

    def cancel(self, sequence: Sequence) -> None:
        """Drop the sequence before the next step; fine if it has ended."""
        sequence.cancelled = True
        self.wake()

    def wake(self) -> None:
        """Look again at what there is to do. From any thread."""
        with self._wake:
            self._wake.notify()

    def trouble(self) -> str | None:
        """Why it does not step though it should, or None."""
        if not self._thread.is_alive():
            return "the engine has ended"
        began_at = self._step_began_at
        if began_at is not None and time.monotonic() - began_at > self._stalled_s:
            return f"the engine has been in one step for {time.monotonic() - began_at:.0f} s"
        return None

    def close(self) -> None:
        """Stop after the step that runs; whoever is left gets Unavailable. Blocks."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        with torch.inference_mode():
            while self._take_arrivals():
                self._drop_cancelled()
                self._scheduler.park_unread()
                if self._scheduler.running or self._scheduler.waiting:
                    self._post(self._step_or_fail())
                self._score_next()
        for task in self._scorings:
            task.end(_shutting_down())
        left = [*self._scheduler.sequences(), *self._arrived]
        self._post([(sequence.stream, _shutting_down()) for sequence in left])

    def _take_arrivals(self) -> bool:
        """Wait for work; False when it is time to end."""
        with self._wake:
            while not (self._closing or self._arrived or self._scorings or self._scheduler.has_work()):
                self._wake.wait()
            for sequence in self._arrived:
                self._scheduler.waiting.push(sequence)
            self._arrived.clear()
            return not self._closing

    def _drop_cancelled(self) -> None:
        for sequence in self._scheduler.sequences():
            if sequence.cancelled:
                self._scheduler.leave(sequence)

    def _step_or_fail(self) -> list[Delivery]:
        """A step that fails takes down what ran in it, never the thread."""
        self._step_began_at = time.monotonic()
        try:
            return self._step()
        except Exception as error:
            log.exception("step_failed", running=len(self._scheduler.running))
            failed = list(self._scheduler.running) or list(self._scheduler.waiting)[:1]
            for sequence in failed:
                self._scheduler.leave(sequence)
            return [(sequence.stream, HeadwayError(f"the sampler's step failed: {error}")) for sequence in failed]
        finally:
            self._step_began_at = None

    def _score_next(self) -> None:
        if not self._scorings:
            return
        task = self._scorings.popleft()
        if task.cancelled:
            return
        self._step_began_at = time.monotonic()
        try:
            task.end(score_prompt(self._model, task.request, task.adapter, task.shown))
        except HeadwayError as error:
            task.end(error)
        except Exception as error:
            log.exception("scoring_failed")
            task.end(HeadwayError(f"the sampler could not score the prompt: {error}"))
        finally:
            self._step_began_at = None

    def _step(self) -> list[Delivery]:
        plan = self._scheduler.plan()
        logits_NV = self._model.forward(plan.forward, num_rows=len(self._scheduler.running))
        if plan.followers:
            logits_NV = logits_NV[plan.source_indices()]
            self._scheduler.hand_over(plan)
        takers = plan.takers()
        chosen = sample_tokens(logits_NV, [sequence.next_choice() for sequence in takers])
        return [self._advance(sequence, token) for sequence, token in zip(takers, chosen, strict=True)]

    def _advance(self, sequence: Sequence, chosen: SampledToken) -> Delivery:
        if not math.isfinite(chosen.logprob):
            self._scheduler.expel(sequence)
            if sequence.unkept:
                return sequence.stream, InvalidRequest(f"the constraint is too complex: {sequence.unkept}")
            return sequence.stream, HeadwayError(f"adapter {sequence.adapter.name} gives logits that are not finite")
        event = sequence.accept(chosen)
        if event.finish_reason is not None:
            self._scheduler.leave(sequence)
        return sequence.stream, event


def _shutting_down() -> Unavailable:
    return Unavailable("the sampler is shutting down", retry_after_s=1)
