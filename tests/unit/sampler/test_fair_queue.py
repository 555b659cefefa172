"""Turns between teams and calls, without a model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from sampler.admission.fair_gate import FairGate
from sampler.admission.fair_queue import FairQueue
from wire.sampling import Flow


@dataclass(eq=False)
class Item:
    team: str
    call: str
    number: int = 0


def filled(*items: Item, width: int = 2) -> FairQueue[Item]:
    queue = FairQueue[Item](width)
    for item in items:
        queue.push(item)
    return queue


def take(queue: FairQueue[Item]) -> Item:
    item = queue.peek()
    assert item is not None
    queue.begin(item)
    return item


def test_the_team_that_was_served_least_is_next():
    queue = filled(*(Item("a", f"a{i}") for i in range(3)), *(Item("b", f"b{i}") for i in range(3)))
    order = []
    while len(queue):
        item = take(queue)
        order.append(item.call)
        queue.serve(item.team, 10 if item.team == "a" else 4)
    assert order == ["a0", "b0", "b1", "b2", "a1", "a2"]


def test_a_team_that_comes_back_begins_where_the_least_served_one_is():
    queue = filled(Item("a", "1"))
    first = take(queue)
    queue.serve("a", 1000)
    queue.push(Item("b", "1"))
    assert queue.service("b") == 1000
    queue.serve("b", 5)
    queue.end(first)
    queue.push(Item("a", "2"))
    assert queue.service("a") == 1005


def test_calls_of_a_team_come_in_order_and_wide_ones_last():
    queue = filled(*(Item("a", "wide", i) for i in range(4)), Item("a", "second"), Item("a", "third"))
    assert [(item.call, item.number) for item in [take(queue) for _ in range(6)]] == [
        ("wide", 0),
        ("wide", 1),
        ("second", 0),
        ("third", 0),
        ("wide", 2),
        ("wide", 3),
    ]


def test_what_was_set_back_comes_first_again():
    queue = filled(Item("a", "1"), Item("a", "2"))
    first = take(queue)
    queue.push_front(first)
    queue.end(first)
    assert take(queue) is first
    assert [item.call for item in queue] == ["2"]


def test_nothing_is_kept_of_teams_that_left():
    queue = filled(Item("a", "1"), Item("b", "1"))
    queue.end(take(queue))
    queue.remove(next(iter(queue)))
    assert (len(queue), queue.num_teams, queue.peek()) == (0, 0, None)


async def enter(gate: FairGate, flow: Flow, entered: list[str], leave: asyncio.Event) -> None:
    async with gate.place(flow) as place:
        entered.append(flow.team + flow.call)
        place.serve(10)
        await leave.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_last_places_of_a_gate_are_for_teams_with_less_than_their_share():
    gate, entered, leave = FairGate(8, reserve=2), list[str](), asyncio.Event()
    wide = [asyncio.ensure_future(enter(gate, Flow(team="a", call="wide"), entered, leave)) for _ in range(20)]
    await settle()
    assert entered == ["awide"] * 6
    late = asyncio.ensure_future(enter(gate, Flow(team="b", call="late"), entered, leave))
    await settle()
    assert entered[6:] == ["blate"]
    leave.set()
    await asyncio.gather(*wide, late)
    assert len(entered) == 21
    assert gate.num_waiting == 0


@pytest.mark.parametrize("moment", ["waiting", "called"])
async def test_who_is_cancelled_at_a_gate_gives_the_place_to_the_next(moment):
    gate, entered, leave = FairGate(1), list[str](), asyncio.Event()
    inside, gone, after = [
        asyncio.ensure_future(enter(gate, Flow(team="a", call=str(i)), entered, leave)) for i in range(3)
    ]
    await settle()
    if moment == "called":
        leave.set()
        await inside
    gone.cancel()
    leave.set()
    await asyncio.gather(inside, after)
    assert entered in (["a0", "a2"], ["a0", "a1", "a2"])
    async with gate.place(Flow()):
        assert gate.num_waiting == 0
