"""The local sampler's batch, shared between teams and calls: counted in steps, not in seconds."""

from __future__ import annotations

import asyncio

import pytest

from tests.ports.sampler_backends import collect
from wire.sampling import GenerateRequest, SamplingParams

WIDE, LONG, SHORTER = 12, 120, 60


def asking(number: int, team: str, call: str, max_tokens: int) -> GenerateRequest:
    params = SamplingParams(seed=number, max_tokens=max_tokens, ignore_eos=True)
    return GenerateRequest(
        adapter="base", prompt_token_ids=[1, 2, 3 + number % 50], params=params, team=team, call=call
    )


def wide(team: str = "a", call: str = "wide", count: int = WIDE, max_tokens: int = LONG) -> list[GenerateRequest]:
    return [asking(number, team, call, max_tokens) for number in range(count)]


def shorter(team: str, call: str = "wide", count: int = WIDE) -> list[GenerateRequest]:
    """Which all fit neither room at once either, and take less time alone."""
    return wide(team, call, count, SHORTER)


ROOMS = {"rows": {"max_running": WIDE}, "memory": {"kv_cache_tokens": WIDE * LONG // 2}}
"""For as many sequences as the wide call has answers; for half of its tokens."""


@pytest.fixture(scope="session")
def rooms(open_backend):
    return {name: open_backend(**settings) for name, settings in ROOMS.items()}


@pytest.fixture(scope="session")
async def alone(backend):
    """What each of the shorter answers is where nobody else asks, by its seed."""
    return {one.params.seed: (await collect(backend, one)).ids for one in shorter("a")}


class Steps:
    """Counts the steps of a backend's engine."""

    def __init__(self, backend, monkeypatch) -> None:
        self.count = 0
        forward = backend._engine._model.forward

        def counted(*args, **kwargs):
            self.count += 1
            return forward(*args, **kwargs)

        monkeypatch.setattr(backend._engine._model, "forward", counted)


async def steps_of_a_short_chat_beside(backend, monkeypatch, others, short) -> int:
    steps = Steps(backend, monkeypatch)
    tasks = [asyncio.ensure_future(collect(backend, other)) for other in others]
    while steps.count < LONG // 3:  # noqa: ASYNC110 (nothing signals it)
        await asyncio.sleep(0.001)
    before = steps.count
    answer = await collect(backend, short)
    took = steps.count - before
    assert len(answer.ids) == 2
    assert not all(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return took


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("team", ["b", "a"])
async def test_a_short_chat_beside_a_wide_call_waits_a_few_steps(room, team, rooms, monkeypatch):
    backend = rooms[room]
    short = wide(team, "short", 1)[0].model_copy(deep=True)
    short.params.max_tokens = 2
    assert await steps_of_a_short_chat_beside(backend, monkeypatch, wide(), short) < 40


@pytest.mark.parametrize("room", ROOMS)
async def test_answers_that_are_set_back_for_others_are_what_they_are_alone(room, rooms, alone, monkeypatch):
    crowded = rooms[room]
    set_back, original = [], crowded._engine._scheduler._set_back
    monkeypatch.setattr(crowded._engine._scheduler, "_set_back", lambda s: (set_back.append(s), original(s)))
    asked = [*shorter("a"), *shorter("b", count=4), *shorter("a", "other", 2), *shorter("c", count=8)]
    together = await asyncio.gather(*(collect(crowded, one) for one in asked))
    assert set_back
    assert [answer.ids for answer in together] == [alone[one.params.seed] for one in asked]


async def test_calls_of_one_answer_each_are_not_set_back_for_each_other(rooms, monkeypatch):
    set_back = []
    monkeypatch.setattr(rooms["rows"]._engine._scheduler, "_set_back", set_back.append)
    await asyncio.gather(*(collect(rooms["rows"], asking(n, "a", f"call {n}", 30)) for n in range(3 * WIDE)))
    assert not set_back
