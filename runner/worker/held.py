"""What a runner holds: placements under way, each in a task of its own, and why one is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from uuid import UUID

from wire.placements import Held, Outcome, Placement

_ABANDON_S = 1.0


@dataclass(eq=False, slots=True)
class Holding:
    """One placement under way. `stopped_as`: what it ends as, once somebody has stopped it; None: it runs, or it is
    nobody's business any more how it ends."""

    placement: Placement
    task: asyncio.Task[None] = field(init=False)
    stopped_as: Outcome | None = None


class Holdings:
    """Belongs to one event loop."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._holdings: dict[UUID, Holding] = {}
        self._changed = asyncio.Condition()

    @property
    def num_free(self) -> int:
        """Slots that nothing occupies."""
        return self._slots - len(self._holdings)

    def held(self) -> list[Held]:
        """For the heartbeat."""
        return [Held(placement_id=h.placement.placement_id, attempt=h.placement.attempt) for h in self._all()]

    def begin(self, placement: Placement, carry_out: Callable[[Holding], Awaitable[None]]) -> None:
        """Carry it out in a task; it is held until that ends. An earlier attempt of it, which the server gave up, is
        stopped."""
        self.stop([placement.placement_id], None)
        holding = Holding(placement)

        async def hold() -> None:
            try:
                await carry_out(holding)
            finally:
                if self._holdings.get(placement.placement_id) is holding:
                    del self._holdings[placement.placement_id]
                async with self._changed:
                    self._changed.notify_all()

        self._holdings[placement.placement_id] = holding
        holding.task = asyncio.create_task(hold(), name=f"{placement.kind}-{placement.placement_id}")

    async def until_free(self) -> None:
        """Returns when there is a free slot."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.num_free > 0)

    async def until_empty(self, timeout_s: float) -> bool:
        """Whether all have ended in time."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: not self._holdings)
        except TimeoutError:
            return False
        return True

    def stop(self, ids: Iterable[UUID], outcome: Outcome | None) -> None:
        """Stop these, once: another `stop` of the same changes nothing."""
        for placement_id in ids:
            holding = self._holdings.get(placement_id)
            if holding is not None and not holding.task.cancelling():
                holding.stopped_as = outcome
                holding.task.cancel()

    def stop_named(self, ids: Iterable[UUID], named: Iterable[Held], outcome: Outcome) -> None:
        """Stop these, where they are still the attempts that a heartbeat had named: the server answered about those."""
        attempts = {one.placement_id: one.attempt for one in named}
        held = {one.placement_id: one.attempt for one in self.held()}
        self.stop([one for one in ids if one in held and held[one] == attempts.get(one)], outcome)

    def stop_all(self, outcome: Outcome | None) -> None:
        """Stop everything."""
        self.stop(list(self._holdings), outcome)

    async def abandon(self) -> None:
        """Stop everything, also what is about to end: the server was asked to give it to others."""
        tasks = {holding.task for holding in self._all()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_ABANDON_S)

    def _all(self) -> list[Holding]:
        return list(self._holdings.values())
