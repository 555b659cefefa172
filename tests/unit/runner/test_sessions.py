"""How long a session lasts, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.environments.base import StartFailed
from runner.tunnels.doors import Closed, Doors
from runner.worker.carrying import Carried, Reports
from runner.worker.sessions import SessionLife, Sessions
from tests.unit.runner.placing_server import placement
from wire.placements import Placement


class Quiet:
    """A session that nobody connects to."""

    address = "tcp://127.0.0.1:1"

    def __init__(self) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.is_stopped = False

    async def connect(self) -> Any:
        raise OSError

    async def stop(self) -> None:
        self.is_stopped = True


class Starting:
    isolation = "none"

    def __init__(self, session: Quiet | None):
        self._session = session

    async def start(self, *_: Any, **__: Any) -> Quiet:
        if self._session is None:
            raise StartFailed("SyntaxError: invalid syntax")
        return self._session


class Scene:
    def __init__(self, session: Quiet | None, **life: float):
        self.doors, self.num_left = Doors(), 0
        self.session = session
        self.sessions = Sessions(Starting(session), self.doors, self._left, SessionLife(**life))  # pyright: ignore

    def _left(self) -> None:
        self.num_left += 1

    def begin(self, placed: Placement) -> asyncio.Task[Carried]:
        async def nothing(*_: Any) -> None: ...

        async def no_archive(_spec: Any) -> Path | None:
            return None

        return asyncio.create_task(self.sessions.carry_out(placed, Reports(nothing, nothing, no_archive)))

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not is_so():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_session_that_nobody_uses_ends():
    scene = Scene(Quiet(), unused_s=0.1)
    carried = await scene.begin(placement("session"))
    assert carried == Carried("completed", "no tunnel was open for 0.1 s")
    assert scene.session is not None
    assert scene.session.is_stopped


async def test_a_session_ends_a_while_after_its_last_tunnel_and_not_during_one():
    scene, placed = Scene(Quiet(), unused_s=0.05, left_s=0.3), placement("session")
    running = scene.begin(placed)
    await asyncio.sleep(0.01)
    with scene.doors.find(placed.placement_id).passing():
        await asyncio.sleep(0.5)
        assert not running.done()
    await scene.until(lambda: scene.num_left == 1)
    assert not running.done()
    assert (await running).error == "no tunnel was open for 0.3 s"


async def test_a_session_ends_with_its_environment_and_says_why():
    scene, placed = Scene(Quiet()), placement("session")
    running = scene.begin(placed)
    await asyncio.sleep(0.01)
    assert scene.session is not None
    scene.session.ended.set_result("it was killed: out of memory")
    assert await running == Carried("failed", "it was killed: out of memory")
    with pytest.raises(Closed, match="has ended"):
        scene.doors.find(placed.placement_id)


async def test_a_session_has_a_longest_life():
    assert (await Scene(Quiet()).begin(placement("session", timeout_s=0.1))).error == "a session lasts 0.1 s at most"


async def test_a_start_that_failed_is_for_the_tunnels_that_wait():
    scene, placed = Scene(None), placement("session")
    running = scene.begin(placed)
    assert await running == Carried("failed", "SyntaxError: invalid syntax")
