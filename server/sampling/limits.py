"""How many requests of one team the gateway works on at once; more wait for their turn, and beyond that they are
refused."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import ClassVar
from uuid import UUID

from server.metrics.instruments import ServerMetrics
from server.process.settings import GatewayLimits
from server.process.shutdown import Shutdown
from wire.errors import UNTIL_MENDED, HeadwayError

_RETRY_AFTER_S = 2


class TooManyRequests(HeadwayError):
    """The team has as many requests here as it may have."""

    status: ClassVar[int] = 429
    code: ClassVar[str] = "too_many_requests"
    tries: ClassVar[int | None] = UNTIL_MENDED


class TeamLimits:
    """Counts in this process alone: with several server processes a team may have so many in each. A team's own quota
    is divided among all of them."""

    def __init__(
        self, limits: GatewayLimits, metrics: ServerMetrics | None = None, shutdown: Shutdown | None = None
    ) -> None:
        self._limits = limits
        self._shutdown = shutdown or Shutdown()
        self._metrics = metrics or ServerMetrics()
        self._num_processes = 1
        self._running: Counter[UUID] = Counter()
        self._waiting: defaultdict[UUID, deque[asyncio.Future[None]]] = defaultdict(deque)

    def share_with(self, num_processes: int) -> None:
        """So many server processes divide the quotas of teams among them."""
        self._num_processes = num_processes

    @asynccontextmanager
    async def slot(self, team_id: UUID, quota: int | None = None) -> AsyncGenerator[None]:
        """The right to be worked on, at once or when there is room. `quota`: how many the team may have in the whole
        service. Raises TooManyRequests when the queue is full or too slow, ServerStopping while it waits."""
        if self._running[team_id] < self._room(quota):
            self._running[team_id] += 1
        else:
            await self._queue(team_id, quota)
        self._note_load(team_id)
        try:
            yield
        finally:
            self._leave(team_id)

    def _room(self, quota: int | None) -> int:
        if quota is None:
            return self._limits.running_per_team
        return min(self._limits.running_per_team, -(-quota // self._num_processes))

    async def _queue(self, team_id: UUID, quota: int | None) -> None:
        waiting, limits = self._waiting[team_id], self._limits
        if len(waiting) >= limits.waiting_per_team:
            raise self._refusal(team_id, quota)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        self._note_load(team_id)
        try:
            async with self._shutdown.waiting(), asyncio.timeout(limits.wait_s):
                await turn
        except BaseException as error:
            self._give_up(team_id, turn)
            if isinstance(error, TimeoutError):
                raise self._refusal(team_id, quota) from None
            raise

    def _give_up(self, team_id: UUID, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():
            self._leave(team_id)  # its turn came in the very moment
        elif turn in self._waiting.get(team_id, ()):
            self._waiting[team_id].remove(turn)
            self._note_load(team_id)

    def _leave(self, team_id: UUID) -> None:
        """There is room: the longest waiting gets it."""
        waiting = self._waiting.get(team_id)
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._waiting.pop(team_id, None)
        self._running[team_id] -= 1
        if not self._running[team_id]:
            del self._running[team_id]
        self._note_load(team_id)

    def _note_load(self, team_id: UUID) -> None:
        self._metrics.team_load(team_id, self._running[team_id], len(self._waiting.get(team_id, ())))

    def _refusal(self, team_id: UUID, quota: int | None) -> TooManyRequests:
        self._metrics.refused(team_id)
        running = self._room(quota)
        if quota is not None and running < self._limits.running_per_team:
            return TooManyRequests(
                f"this team has all the {quota} rollouts under way that it may have at once; send fewer, or have an "
                "operator raise the quota ('headway quota set')",
                retry_after_s=_RETRY_AFTER_S,
            )
        return TooManyRequests(
            f"this team has {running} requests under way and too many that wait; send fewer at once",
            retry_after_s=_RETRY_AFTER_S,
        )
