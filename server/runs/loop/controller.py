"""Carries one run out, from its rows, while this process holds its lease. Killed at any point, it is continued by
another: what is done is on record, and what is asked for again is answered as the first time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import select

from server.process.shutdown import ServerStopping
from server.runs.loop import ending
from server.runs.loop.failures import PASSES_BY_ITSELF, BatchDropped, RunFailed, patiently, say_waiting
from server.runs.loop.leases import Lease, LeaseLost
from server.runs.loop.obstacles import Obstacle, obstacle_of
from server.runs.loop.opening import OVER, begin, open_evaluation, open_step
from server.runs.loop.rolling import advance_rollouts, look_at
from server.runs.loop.scores import standing_of
from server.runs.loop.services import LeasedRun, RunServices, open_leased_run
from server.runs.loop.stopping import reason_to_stop
from server.runs.loop.training import begin_training, drop_unfinished, train
from server.runs.schedule import is_evaluated_after
from store.notify import RUN_CHANGED, Subscription
from store.tables import RunRow, RunStepRow
from wire.errors import HeadwayError

log = structlog.get_logger(__name__)

_POLL_S, _MOST_PAUSE_S = 2.0, 10.0
"""Between looks, while nothing is heard of changes: the first pause, and what it grows to."""
_LEAST_PAUSE_S = 0.1
"""Placements that end together are looked at together."""
_SAID_AFTER_S = 5.0
_MOST_DROPS = 5
"""So often in a row a step is begun anew before the run fails."""


@dataclass(frozen=True, slots=True)
class _View:
    """A run and its steps that are not done, in order; whether the held-out score of the present step is due; what
    keeps its rollouts or all of it from going on."""

    run: RunRow
    rows: Sequence[RunStepRow]
    evaluation_is_due: bool
    obstacle: Obstacle | None

    def row(self, step: int, kind: str) -> RunStepRow | None:
        return next((row for row in self.rows if row.step == step and row.kind == kind), None)


class Controller:
    """Of one run in one process."""

    def __init__(self, services: RunServices, lease: Lease) -> None:
        self._services = services
        self._lease = lease
        self._training: asyncio.Task[None] | None = None
        self._num_drops = 0
        self._has_begun = False
        self._pause_s = _POLL_S
        self._has_acted = False
        """In the last look, so that there may be more to do at once."""
        self._obstacle: str | None = None
        self._obstacle_since = 0.0

    async def run(self) -> None:
        """Until the run has ended or is paused, the lease is lost, or the process stops."""
        try:
            await self._carry_out(await patiently(self._lease, lambda: open_leased_run(self._services, self._lease)))
        except (LeaseLost, ServerStopping):
            log.info("run_left", run=str(self._lease.run_id))
        finally:
            await self._stop_training()

    async def _carry_out(self, leased: LeasedRun) -> None:
        listener = self._services.listener
        with (
            listener.subscribe(RUN_CHANGED, leased.id.hex) as changes,
            self._services.ended_rollouts.watching(leased.id, changes),
        ):
            while not await self._advance(leased):
                if not self._has_acted:
                    await self._wait(changes)

    async def _advance(self, leased: LeasedRun) -> bool:
        """One look, and what it asks for. Whether the run is over or paused."""
        self._has_acted = False
        try:
            if not self._has_begun:
                await begin(leased)
                self._has_begun = True
            return await self._act(leased)
        except RunFailed as failure:
            await self._fail(leased, str(failure))
            return True
        except (LeaseLost, ServerStopping):
            raise
        except PASSES_BY_ITSELF as error:
            log.warning("run_interrupted", run=str(leased.id), error=str(error).partition("\n")[0])
            await asyncio.sleep(_POLL_S)
            return False
        except HeadwayError as error:  # as when the environment was removed
            await self._fail(leased, error.message)
            return True

    async def _fail(self, leased: LeasedRun, sentence: str) -> None:
        await self._stop_training()
        await patiently(self._lease, lambda: ending.fail(leased, sentence))

    async def _act(self, leased: LeasedRun) -> bool:
        view = await self._view(leased)
        if view.run.state == "cancelling":
            await self._stop_training()
            await ending.cancel(leased)
            return True
        if view.run.state == "pausing" and self._may_pause(leased, view):
            await ending.pause(leased)
            return True
        if await self._is_held_up(view):
            return False
        await self._collect_training(leased)
        await self._roll_out(leased, view)
        if self._training is None:
            return await self._next(leased, await self._view(leased))
        await self._open_ahead(leased, view)
        return False

    async def _is_held_up(self, view: _View) -> bool:
        """Whether nothing may be done now. An obstacle is said once it has lasted."""
        sentence = view.obstacle.sentence if view.obstacle is not None else None
        if sentence != self._obstacle:
            self._obstacle, self._obstacle_since = sentence, time.monotonic()
        is_lasting = sentence is not None and time.monotonic() - self._obstacle_since >= _SAID_AFTER_S
        if is_lasting and view.run.waiting_for != sentence:
            await say_waiting(self._lease, sentence)
        elif sentence is None and self._training is None and view.run.waiting_for is not None:
            await say_waiting(self._lease, None)
        return view.obstacle is not None and view.obstacle.stops_all

    def _may_pause(self, leased: LeasedRun, view: _View) -> bool:
        """A run that has not begun, or whose steps overlap and none of which is trained now: what is rolled out by then
        is kept."""
        if view.run.started_at is None:
            return True
        is_training = self._training is not None or any(row.phase in ("training", "promoting") for row in view.rows)
        return leased.config.max_policy_lag > 0 and not is_training and not view.evaluation_is_due

    async def _view(self, leased: LeasedRun) -> _View:
        async with self._lease.reading() as (session, run):
            query = select(RunStepRow).where(RunStepRow.run_id == run.id, RunStepRow.phase.not_in(OVER))
            rows = (await session.scalars(query.order_by(RunStepRow.step, RunStepRow.kind))).all()
            is_due = False
            if leased.held_out is not None:
                is_due = is_evaluated_after(leased.held_out.every, leased.config.steps, run.step)
                last = await session.get(RunStepRow, (run.id, run.step, "held_out"))
                is_due = (is_due and last is None) or (last is not None and last.phase != "done")
            obstacle = await obstacle_of(session, run, rows)
        return _View(run, rows, is_due, obstacle)

    async def _next(self, leased: LeasedRun, view: _View) -> bool:
        """What comes after the steps that are done, while nothing is trained."""
        run = view.run
        if view.evaluation_is_due:
            if view.row(run.step, "held_out") is None:
                await open_evaluation(leased, run.step)
                self._has_acted = True
            await self._open_ahead(leased, view)
            return False
        if (row := view.row(run.step + 1, "train")) is not None:
            if row.rolled_out_at is not None and (row.phase != "rolling_out" or await begin_training(leased, row)):
                self._training = asyncio.create_task(train(leased, row))
            await self._open_ahead(leased, view)
            return False
        return await self._between_steps(leased, run)

    async def _between_steps(self, leased: LeasedRun, run: RunRow) -> bool:
        async with self._lease.reading() as (session, _):
            reason = reason_to_stop(leased.stop, await standing_of(session, run)) if run.step else None
        if reason is not None and run.step < leased.config.steps:
            await ending.finish(leased, "stopped", reason)
            return True
        if run.step >= leased.config.steps:
            await ending.finish(leased, "completed", None)
            return True
        if run.state == "pausing":
            await ending.pause(leased)
            return True
        await open_step(leased, run.step + 1)
        self._has_acted = True
        return False

    async def _open_ahead(self, leased: LeasedRun, view: _View) -> None:
        """Steps whose rollouts may begin although those before them are not done."""
        run = view.run
        if run.state != "running" or (view.row(run.step + 1, "train") is None):
            return
        last = min(run.step + 1 + leased.config.max_policy_lag, leased.config.steps)
        for step in range(run.step + 2, last + 1):
            if view.row(step, "train") is None:
                await open_step(leased, step)
                self._has_acted = True

    async def _roll_out(self, leased: LeasedRun, view: _View) -> None:
        rows = [row for row in view.rows if row.phase == "rolling_out" and row.rolled_out_at is None]
        looks = [await look_at(leased, row) for row in rows]
        room = leased.config.max_concurrent - sum(look.num_open for look in looks)
        for row, look in zip(rows, looks, strict=True):
            room -= await advance_rollouts(leased, row, look, room)

    async def _collect_training(self, leased: LeasedRun) -> None:
        if self._training is None or not self._training.done():
            return
        training, self._training = self._training, None
        try:
            training.result()
            self._num_drops = 0
        except BatchDropped as dropped:
            self._num_drops += 1
            if self._num_drops >= _MOST_DROPS:
                raise RunFailed(
                    f"a step was begun anew {self._num_drops} times in a row; the last time: {dropped}"
                ) from None
            async with self._lease.writing() as (session, run):
                await drop_unfinished(session, run, f"step {run.step + 1} is rolled out anew: {dropped}")
            self._has_acted = True

    async def _stop_training(self) -> None:
        if self._training is not None:
            self._training.cancel()
            await asyncio.gather(self._training, return_exceptions=True)
            self._training = None

    async def _wait(self, changes: Subscription) -> None:
        """Until something has changed; for ever longer while nothing does."""
        await asyncio.sleep(_LEAST_PAUSE_S)
        waking = asyncio.ensure_future(changes.wait(self._pause_s))
        tasks: list[asyncio.Future[Any]] = [waking, *([self._training] if self._training else [])]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            is_still = waking.done() and not waking.result()
        finally:
            waking.cancel()
        self._pause_s = min(2 * self._pause_s, _MOST_PAUSE_S) if is_still else _POLL_S
