"""More calls at once than connections: they wait in turn, and too many are sent away with a sentence of their own."""

from __future__ import annotations

import asyncio

import pytest

from store.pool_queue import PoolQueue, QueueLimits, TooBusy


async def take(queue: PoolQueue, order: list[int], number: int) -> None:
    async with queue.turn():
        order.append(number)
        await asyncio.sleep(0)


async def test_calls_get_their_connection_in_turn():
    queue, order = PoolQueue(2, QueueLimits()), list[int]()
    await asyncio.gather(*(take(queue, order, number) for number in range(20)))
    assert order == list(range(20))
    assert queue.num_waiting == 0


@pytest.mark.parametrize("limits", [QueueLimits(most_waiting=0), QueueLimits(patience_s=0.0)])
async def test_who_cannot_wait_is_sent_away_and_told_when_to_come_back(limits: QueueLimits):
    queue = PoolQueue(1, limits)
    async with queue.turn():
        with pytest.raises(TooBusy, match="more calls at once than it can work on") as refused:
            async with queue.turn():
                pass
        assert (refused.value.status, refused.value.retry_after_s) == (503, 5)
    async with queue.turn():
        assert queue.num_waiting == 0


async def test_a_call_that_gives_up_takes_nobody_s_turn():
    queue, order = PoolQueue(1, QueueLimits()), list[int]()
    async with queue.turn():
        gone = asyncio.create_task(take(queue, order, 1))
        stays = asyncio.create_task(take(queue, order, 2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
    await stays
    assert order == [2]
