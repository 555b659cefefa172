"""A runner's worker before a server: what it takes, what it reports, and how it stops."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runner.worker.api import ServerApi
from runner.worker.archives import Archives
from runner.worker.builds import Builds
from runner.worker.carrying import Carried, HandBack, Reports
from runner.worker.held import Holding, Holdings
from runner.worker.refusals import KeyRefused
from runner.worker.worker import Worker, WorkerSettings
from tests.unit.runner.placing_server import ARCHIVE, PlacingServer, placement, placing_server
from wire.placements import Placement, Registration
from wire.process.tokens import Tokens

Act = Callable[[Placement, Reports], Awaitable[Carried]]


class Acting:
    """Carries out whatever it is by `act`."""

    def __init__(self, act: Act):
        self._act = act

    async def carry_out(self, placement: Placement, reports: Reports) -> Carried:
        return await self._act(placement, reports)


async def at_once(_placement: Placement, _reports: Reports) -> Carried:
    return Carried("completed")


async def for_ever(_placement: Placement, _reports: Reports) -> Carried:
    await asyncio.Event().wait()
    raise AssertionError


def contents(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.iterdir())


@pytest.fixture
async def server() -> AsyncIterator[PlacingServer]:
    async with placing_server() as state:
        yield state


class Running:
    def __init__(self, task: asyncio.Task[None], stopping: asyncio.Event):
        self.task, self.stopping = task, stopping

    async def stop(self) -> None:
        self.stopping.set()
        await self.task


@asynccontextmanager
async def working(
    server: PlacingServer, folder: Path, act: Act, slots: int = 2, drain_s: float = 2.0
) -> AsyncGenerator[Running]:
    api, stopping = ServerApi(server.origin, Tokens("a key")), asyncio.Event()
    registration = Registration(host="here", pid=1, slots=slots, isolation="none")
    carrier = Acting(act)
    worker = Worker(
        api,
        registration,
        WorkerSettings(slots, drain_s),
        {"build": carrier, "session": carrier, "rollout": carrier},
        Archives(folder, 1 << 20),
        {},
    )
    running = Running(asyncio.create_task(worker.run(stopping)), stopping)
    try:
        yield running
    finally:
        if not running.task.done():
            await running.stop()
        await api.close()


async def test_it_takes_as_much_as_it_has_slots_and_more_as_they_become_free(server: PlacingServer, tmp_path: Path):
    running_now, most, gate = 0, 0, asyncio.Event()

    async def count(_placement: Placement, _reports: Reports) -> Carried:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await gate.wait()
        running_now -= 1
        return Carried("completed")

    server.queue += [placement("rollout") for _ in range(5)]
    async with working(server, tmp_path, count, slots=2):
        await server.until("lease")
        await asyncio.sleep(0.1)
        assert len(server.queue) == 3
        gate.set()
        ends = await server.until("end", 5)
    assert most == 2
    assert {end["outcome"] for end in ends} == {"completed"}
    assert all(call["slots"] <= 2 for call in server.called("lease"))


async def test_its_heartbeat_names_what_it_holds_until_the_end_was_answered(server: PlacingServer, tmp_path: Path):
    server.queue.append(one := placement("rollout"))
    async with working(server, tmp_path, for_ever, drain_s=0.2):
        await server.until("lease")
        held = (await server.until("heartbeat", len(server.called("heartbeat")) + 2))[-1]["held"]
        assert held == [{"placement_id": str(one.placement_id), "attempt": 1}]


async def test_what_the_server_stops_ends_as_cancelled(server: PlacingServer, tmp_path: Path):
    server.queue.append(one := placement("rollout"))
    async with working(server, tmp_path, for_ever):
        await server.until_held(1)
        server.stop = [str(one.placement_id)]
        assert (await server.until_ended(one))["outcome"] == "cancelled"


async def test_what_the_server_said_of_an_earlier_attempt_does_not_stop_the_present_one():
    holdings, one = Holdings(4), placement("rollout")
    again = one.model_copy(update={"attempt": 2})
    ended = list[int]()

    async def hold(holding: Holding) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(holding.placement.attempt)

    holdings.begin(one, hold)
    named = holdings.held()
    await asyncio.sleep(0)
    holdings.begin(again, hold)
    holdings.stop_named([one.placement_id], named, "cancelled")
    await asyncio.sleep(0.01)
    assert (ended, [held.attempt for held in holdings.held()]) == ([1], [2])
    holdings.stop_named([one.placement_id], holdings.held(), "cancelled")
    assert await holdings.until_empty(1)


async def test_draining_finishes_what_ends_in_time_and_hands_back_the_rest(server: PlacingServer, tmp_path: Path):
    quick, slow = placement("rollout"), placement("rollout")

    async def act(taken: Placement, _reports: Reports) -> Carried:
        await asyncio.sleep(0.6 if taken.placement_id == quick.placement_id else 60)
        return Carried("completed")

    server.queue += [quick, slow]
    async with working(server, tmp_path, act, drain_s=3.0) as running:
        await server.until_held(2)
        await asyncio.wait_for(running.stop(), 6)
    assert (await server.until_ended(quick))["outcome"] == "completed"
    assert (await server.until_ended(slow))["outcome"] == "handed_back"
    assert len(server.called("stop")) == 1


async def test_it_rides_out_a_server_that_is_away(server: PlacingServer, tmp_path: Path):
    gate = asyncio.Event()

    async def act(_placement: Placement, _reports: Reports) -> Carried:
        await gate.wait()
        return Carried("completed")

    server.queue.append(one := placement("rollout"))
    async with working(server, tmp_path, act):
        await server.until_held(1)
        server.refuse_with = (503, "unavailable")
        gate.set()
        await asyncio.sleep(0.5)
        server.refuse_with = None
        assert (await server.until_ended(one))["outcome"] == "completed"
    assert len(server.called("register")) == 1


async def test_a_runner_that_the_server_has_forgotten_stops_everything_and_registers_again(
    server: PlacingServer, tmp_path: Path
):
    stopped: list[uuid.UUID] = []

    async def act(taken: Placement, _reports: Reports) -> Carried:
        try:
            return await for_ever(taken, _reports)
        finally:
            stopped.append(taken.placement_id)

    server.queue.append(one := placement("rollout"))
    async with working(server, tmp_path, act):
        await server.until_held(1)
        server.runner_id = uuid.uuid4()
        await server.until("register", 2)
        assert stopped == [one.placement_id]
        assert server.called("end") == []
        server.queue.append(two := placement("rollout"))
        await server.until_held(1, named=two)


async def test_a_lost_placement_is_dropped_without_another_word(server: PlacingServer, tmp_path: Path):
    gate = asyncio.Event()

    async def act(_placement: Placement, reports: Reports) -> Carried:
        await gate.wait()
        await reports.ready()
        return Carried("completed")

    server.queue.append(placement("rollout"))
    async with working(server, tmp_path, act) as running:
        await server.until_held(1)
        server.refuse_with, server.refuse_what = (409, "placement_lost"), "/placements/"
        gate.set()
        await asyncio.sleep(0.1)
        assert not running.task.done()
        assert (await server.until("heartbeat", len(server.called("heartbeat")) + 2))[-1]["held"] == []
    assert server.called("end") == []


async def test_a_key_that_is_refused_ends_it_at_once(server: PlacingServer, tmp_path: Path):
    server.refuse_with = (401, "unauthenticated")
    async with working(server, tmp_path, at_once) as running:
        with pytest.raises(KeyRefused, match="unauthenticated"):
            await asyncio.wait_for(running.task, 5)


async def test_a_runner_that_cannot_work_takes_the_next_placement_later(server: PlacingServer, tmp_path: Path):
    async def fail(_placement: Placement, _reports: Reports) -> Carried:
        raise HandBack("the disk is full")

    server.queue += [placement("rollout"), placement("rollout", attempt=7)]
    async with working(server, tmp_path, fail, slots=1):
        (first,) = await server.until("end")
        assert (first["outcome"], first["error"]) == ("handed_back", "the disk is full")
        await server.until("heartbeat", len(server.called("heartbeat")) + 2)
        assert server.called("heartbeat")[-1]["trouble"] == "the disk is full"
        assert len(server.called("end")) == 1
        _, last = await server.until("end", 2)
        assert last["outcome"] == "failed", "it was handed back often enough"


async def test_an_archive_is_fetched_once_for_many(server: PlacingServer, tmp_path: Path):
    async def read(taken: Placement, reports: Reports) -> Carried:
        path = await reports.archive(taken.environment)
        assert path is not None
        assert path.read_bytes() == ARCHIVE
        return Carried("completed")

    server.queue += [placement("rollout") for _ in range(4)]
    async with working(server, tmp_path, read, slots=4):
        await server.until("end", 4)
    assert len(server.called("archive")) == 1


async def test_an_archive_of_other_bytes_is_not_used(server: PlacingServer, tmp_path: Path):
    async def read(taken: Placement, reports: Reports) -> Carried:
        await reports.archive(taken.environment)
        return Carried("completed")

    server.archive = b"other bytes"
    server.queue.append(placement("rollout"))
    async with working(server, tmp_path, read):
        (end,) = await server.until("end")
    assert end["outcome"] == "handed_back"
    assert "has the digest" in end["error"]
    assert contents(tmp_path) == []


async def test_the_least_recently_used_archives_make_room(tmp_path: Path):
    archives = Archives(tmp_path, 25)
    for content in (b"0123456789", b"abcdefghij", b"ABCDEFGHIJ"):
        digest = hashlib.sha256(content).hexdigest()

        async def fetch(_build: uuid.UUID, path: Path, content: bytes = content, digest: str = digest) -> str:
            await asyncio.to_thread(path.write_bytes, content)
            return digest

        await archives.get(placement("build").environment.model_copy(update={"archive_digest": digest}), fetch)
        await asyncio.sleep(0.02)
    assert contents(tmp_path) == [b"ABCDEFGHIJ", b"abcdefghij"]


async def test_a_builds_lines_arrive_numbered_and_in_order_before_its_end(server: PlacingServer, tmp_path: Path):
    class Talkative:
        isolation = "none"

        async def build(self, spec: object, archive: object, log: Callable[[str], None], timeout_s: float):
            for number in range(1200):
                log(f"line {number}\n")
            return {"tasks": [{"id": "add"}], "capabilities": []}

    server.queue.append(one := placement("build"))
    async with working(server, tmp_path, Builds(Talkative()).carry_out):  # pyright: ignore[reportArgumentType]
        end = await server.until_ended(one)
    lines = [line for call in server.called("log") for line in call["lines"]]
    assert lines == [f"line {number}" for number in range(1200)]
    assert [call["first"] for call in server.called("log")] == [0, 500, 1000]
    assert end["manifest"]["tasks"] == [{"id": "add"}]
    names = [name for name, _ in server.calls if name in ("log", "end")]
    assert names[-1] == "end"


async def test_half_a_surrogate_pair_in_what_users_code_says_is_sent_as_a_question_mark(
    server: PlacingServer, tmp_path: Path
):
    built, failed = placement("build"), placement("build")

    async def act(one: Placement, reports: Reports) -> Carried:
        if one.placement_id == failed.placement_id:
            return Carried("failed", "it declares z\ud800")
        await reports.log(0, ["a\udcff.py"])
        return Carried("completed", manifest={"tasks": [{"id": "\ud800", "n": 1.0}]})

    server.queue += [built, failed]
    async with working(server, tmp_path, act):
        assert (await server.until_ended(built))["manifest"] == {"tasks": [{"id": "?", "n": 1.0}]}
        assert (await server.until_ended(failed))["error"] == "it declares z?"
    assert server.called("log")[0]["lines"] == ["a?.py"]


async def test_an_end_that_the_server_does_not_take_is_reported_as_a_failure(server: PlacingServer, tmp_path: Path):
    server.refuse_with, server.refuse_what, server.refuse_times = (422, "invalid_request"), "/end", 1
    server.queue.append(one := placement("build"))
    async with working(server, tmp_path, at_once):
        end = await server.until_ended(one)
    assert end["outcome"] == "failed"
    assert end["error"].startswith("what came of it is refused: ")
