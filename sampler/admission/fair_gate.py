"""So many at once, and whoever waits takes turns as in `sampler.admission.fair_queue`. For one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from sampler.admission.fair_queue import FairQueue
from wire.sampling import Flow


@dataclass(slots=True, eq=False)
class _Turn:
    team: str
    call: Hashable
    came: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Place:
    """Inside a gate. `num_before`: how many of its team had got in and were not out yet."""

    num_before: int
    serve: Callable[[int], None]
    """To be called with the number of tokens that were served."""


class FairGate:
    """`reserve`: the last so many places are for teams that have less than their share of all of them under way, so
    that a team which comes later need not wait until one of a long answer's places is free."""

    def __init__(self, limit: int, reserve: int = 0) -> None:
        assert 0 <= reserve < limit
        self._limit = limit
        self._reserve = reserve
        self._queue: FairQueue[_Turn] = FairQueue(width=max(8, limit // 4))
        self._num_inside = 0

    @property
    def num_waiting(self) -> int:
        """How many wait for a place."""
        return len(self._queue)

    @asynccontextmanager
    async def place(self, flow: Flow) -> AsyncGenerator[Place]:
        """A place, when its turn has come."""
        turn = _Turn(flow.team, flow.call or object(), asyncio.get_running_loop().create_future())
        self._queue.push(turn)
        self._let_in()
        try:
            await turn.came
        except asyncio.CancelledError:
            self._leave(turn) if turn.came.done() and not turn.came.cancelled() else self._queue.remove(turn)
            raise
        try:
            yield Place(self._queue.num_of_team(turn.team) - 1, partial(self._queue.serve, turn.team))
        finally:
            self._leave(turn)

    def _leave(self, turn: _Turn) -> None:
        self._num_inside -= 1
        self._queue.end(turn)
        self._let_in()

    def _let_in(self) -> None:
        while (turn := self._queue.peek(self._has_place)) is not None:
            self._queue.begin(turn)
            self._num_inside += 1
            turn.came.set_result(None)

    def _has_place(self, team: str) -> bool:
        free = self._limit - self._num_inside
        if free > self._reserve:
            return True
        share = max(1, (self._limit - self._reserve) // max(2, self._queue.num_teams))
        return free > 0 and self._queue.num_of_team(team) < share
