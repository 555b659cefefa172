from __future__ import annotations

import asyncio
import threading

import psycopg
import pytest
from structlog.testing import capture_logs

from store.repeating import RepeatedTask, RepeatedThread, Rhythm
from wire.errors import Unavailable

TROUBLES = [psycopg.OperationalError("away\nDETAIL"), Unavailable("the disk is full"), ZeroDivisionError("a bug")]


class Rounds:
    """Raises what it was given, one a round, then counts until it was called `most` times."""

    def __init__(self, *troubles: Exception, most: int = 5) -> None:
        self.troubles, self.left = list(troubles), most
        self.done = threading.Event()
        self.num = 0

    def __call__(self) -> None:
        self.num += 1
        if self.num >= self.left:
            self.done.set()
        if self.troubles:
            raise self.troubles.pop(0)

    async def on_loop(self) -> None:
        self()


async def until(done: threading.Event) -> None:
    async with asyncio.timeout(10):
        while not done.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def test_a_thread_outlives_rounds_that_raise_and_says_why():
    rounds, finished = Rounds(*TROUBLES), threading.Event()
    with capture_logs() as logs:
        thread = RepeatedThread("rounds", rounds, Rhythm(0.001, failed="round_failed", at_once=True), finished.set)
        thread.start()
        assert rounds.done.wait(10)
        thread.close()
    assert finished.is_set()
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("round_failed", "warning"),
        ("round_failed", "warning"),
        ("round_failed", "error"),
    ]
    assert [line.get("error") for line in logs] == ["away", "the disk is full", None]
    num = rounds.num
    assert not thread._thread.is_alive()
    assert rounds.num == num


async def test_a_task_outlives_rounds_that_raise():
    rounds = Rounds(*TROUBLES)
    with capture_logs() as logs:
        async with RepeatedTask(rounds.on_loop, Rhythm(0.001, failed="round_failed")):
            await until(rounds.done)
    assert len(logs) == len(TROUBLES)
    num = rounds.num
    await asyncio.sleep(0.02)
    assert rounds.num == num


@pytest.mark.parametrize("at_once", [False, True])
async def test_the_first_round_comes_at_once_or_after_a_pause(at_once: bool):
    rounds = Rounds()
    async with RepeatedTask(rounds.on_loop, Rhythm(60.0, failed="x", at_once=at_once)):
        await asyncio.sleep(0.02)
    assert rounds.num == at_once


async def test_a_round_that_raised_is_tried_again_after_a_pause_of_its_own():
    rounds, pauses = Rounds(TROUBLES[0], most=4), list[float]()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    async with RepeatedTask(rounds.on_loop, Rhythm(60.0, failed="x", at_once=True, retry_s=1.0), pause):
        await until(rounds.done)
    assert pauses[:3] == [1.0, 60.0, 60.0]


def test_what_was_not_started_can_be_closed():
    RepeatedThread("never", Rounds(), Rhythm(1.0, failed="x")).close()
