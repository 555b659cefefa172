"""A team has so many requests at once; more wait in turn, too many are refused, other teams notice nothing."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack

import pytest

from server.process.settings import GatewayLimits
from server.sampling.limits import TeamLimits, TooManyRequests

TEAM, OTHER = uuid.uuid4(), uuid.uuid4()


async def test_too_many_are_sent_away_and_told_when_to_come_back():
    limits = TeamLimits(GatewayLimits(running_per_team=1, waiting_per_team=0))
    async with limits.slot(TEAM):
        with pytest.raises(TooManyRequests) as refusal:
            async with limits.slot(TEAM):
                pass
        assert (refusal.value.status, bool(refusal.value.retry_after_s)) == (429, True)
        async with limits.slot(OTHER):
            pass
    async with limits.slot(TEAM):
        pass


async def test_who_waits_gets_in_by_turns():
    limits, order = TeamLimits(GatewayLimits(running_per_team=2, waiting_per_team=10)), list[int]()
    most = running = 0

    async def work(number: int) -> None:
        nonlocal most, running
        async with limits.slot(TEAM):
            order.append(number)
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1

    await asyncio.gather(*(work(i) for i in range(10)))
    assert order == list(range(10))
    assert most == 2
    assert not limits._running


async def test_nobody_waits_for_ever():
    limits = TeamLimits(GatewayLimits(running_per_team=1, waiting_per_team=1, wait_s=0.01))
    async with limits.slot(TEAM):
        with pytest.raises(TooManyRequests):
            async with limits.slot(TEAM):
                pass
    assert not limits._running


async def test_who_hangs_up_while_waiting_leaves_no_hole():
    limits = TeamLimits(GatewayLimits(running_per_team=1, waiting_per_team=5))

    async def hold(seconds: float) -> None:
        async with limits.slot(TEAM):
            await asyncio.sleep(seconds)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(limits.slot(TEAM))
        waiting = [asyncio.create_task(hold(0)) for _ in range(3)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()
        await asyncio.sleep(0)
    waiting[1].cancel()  # in the very moment in which its turn came
    await asyncio.gather(*waiting, return_exceptions=True)
    assert waiting[2].exception() is None
    assert not limits._running
