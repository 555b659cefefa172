"""An agent process with the real SDK in it: what it reports, when it is done, and what does not count."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner.agents.host_process import HostDied, HostProcess
from runner.agents.messages import Drive
from runner.agents.pool import AgentPool, PoolSettings
from tests.unit.runner.service import Service, running_service
from wire.placements import AgentSpec, RolloutSpec

KEY = "hw_key_of_agents"


@dataclass
class Scene:
    service: Service
    host: HostProcess
    address: str
    verifier_address: str

    def drive(self, config: dict[str, Any] | None = None, timeout_s: float = 30.0, **more: Any) -> Drive:
        agent = AgentSpec(type="openai_compatible", config={"model": "m", **(config or {})})
        rollout = RolloutSpec(
            trace_id=uuid.uuid4(), job_id=uuid.uuid4(), task="add", args={"a": 2, "b": 2}, agent=agent, **more
        )
        return Drive(
            id=uuid.uuid4().hex,
            rollout=rollout,
            environment="sums",
            address=self.address,
            verifier_address=self.verifier_address if "verifier" in more else None,
            timeout_s=timeout_s,
        )


@pytest.fixture(scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    from hud import Environment
    from hud.environment.server import bind

    sums, judge = Environment(name="sums"), Environment(name="judge")

    @sums.template()
    async def add(a: int, b: int):
        answer = yield f"{a}+{b}=?"
        yield float(str(answer) == str(a + b))

    @judge.template()
    async def check(worth: float):
        yield ""
        yield worth

    for env in (sums, judge):
        await env.start()
    servers = [await bind(env) for env in (sums, judge)]
    addresses = [f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
    async with running_service() as service:
        host = await HostProcess.start(service.origin, KEY, tmp_path_factory.mktemp("agents"))
        yield Scene(service, host, *addresses)
        await host.close()
    for server, env in zip(servers, (sums, judge), strict=True):
        server.close()
        await env.stop()


@pytest.fixture(autouse=True)
def _nothing_is_refused(scene: Scene):
    scene.service.refuse.clear()
    scene.service.chat_s = 0.0


async def test_a_rollout_is_over_when_all_that_it_reported_has_arrived(scene: Scene):
    drive = scene.drive(group_id="g", slug="two")
    driven = await scene.host.drive(drive)
    assert (driven.error, driven.void) == (None, None)
    trace = drive.rollout.trace_id.hex
    assert scene.service.of(trace) == ["enter", "chat", "exit", "telemetry-upload"]
    assert scene.service.body("enter", trace) == {
        "job_id": drive.rollout.job_id.hex,
        "group_id": "g",
        "task_slug": "two",
        "model": "m",
    }
    assert scene.service.body("exit", trace)["reward"] == 1.0
    assert scene.service.keys == {f"Bearer {KEY}"}


async def test_spans_wait_for_a_service_that_is_away_longer_than_the_sdk_waits(scene: Scene):
    scene.service.refuse["telemetry-upload"] = 503, 3
    drive = scene.drive()
    driven = await scene.host.drive(drive)
    assert driven.void is None
    assert scene.service.of(drive.rollout.trace_id.hex)[-1] == "telemetry-upload"


async def test_many_rollouts_share_a_process_and_each_keeps_its_trace(scene: Scene):
    scene.service.chat_s = 0.2
    drives = [scene.drive() for _ in range(16)]
    assert {(d.error, d.void) for d in await asyncio.gather(*map(scene.host.drive, drives))} == {(None, None)}
    for drive in drives:
        assert sorted(scene.service.of(drive.rollout.trace_id.hex))[:2] == ["chat", "enter"]


@pytest.mark.parametrize(("piece", "status"), [("chat/completions", 401), ("/exit", 403), ("telemetry-upload", 403)])
async def test_what_the_service_did_not_take_makes_it_void(scene: Scene, piece: str, status: int):
    scene.service.refuse[piece] = status, 5
    assert (await scene.host.drive(scene.drive())).void is not None


async def test_a_verifier_of_another_environment_has_the_last_word(scene: Scene):
    drive = scene.drive(verifier={"env": "judge", "id": "check", "args": {"worth": 0.25}})
    driven = await scene.host.drive(drive)
    assert (driven.error, driven.void) == (None, None)
    assert scene.service.body("exit", drive.rollout.trace_id.hex)["reward"] == 0.25


async def test_one_that_is_stopped_leaves_the_others_alone(scene: Scene):
    scene.service.chat_s = 1.0
    stopped, other = scene.drive(), scene.drive()
    tasks = [asyncio.create_task(scene.host.drive(drive)) for drive in (stopped, other)]
    await scene.service.until("chat", stopped.rollout.trace_id.hex)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert (await tasks[1]).void is None
    assert scene.service.body("exit", stopped.rollout.trace_id.hex)["status"] == "cancelled"


@pytest.mark.parametrize("field", ["base_url", "api_key"])
async def test_an_agent_that_would_sample_elsewhere_is_refused_by_name(scene: Scene, field: str):
    driven = await scene.host.drive(scene.drive({field: "http://elsewhere"}))
    assert driven.error is not None
    assert f"leave out {field}" in driven.error


async def test_a_timeout_of_its_own_that_could_never_take_effect_does_not_fail_it(scene: Scene):
    driven = await scene.host.drive(scene.drive({"timeout_seconds": 900.0}, timeout_s=30.0))
    assert (driven.error, driven.void) == (None, None)


@pytest.mark.slow
async def test_a_process_is_replaced_after_so_many_rollouts_and_a_death_is_said(scene: Scene, tmp_path: Path):
    pool = AgentPool(scene.service.origin, tmp_path, PoolSettings(rollouts_per_process=2, most_rollouts=2, idle_s=60))
    try:
        first = [asyncio.create_task(pool.drive("a", KEY, scene.drive())) for _ in range(2)]
        assert [(await one).void for one in first] == [None, None]
        scene.service.chat_s = 30.0
        drive = scene.drive()
        last = asyncio.create_task(pool.drive("a", KEY, drive))
        await scene.service.until("chat", drive.rollout.trace_id.hex)
        (pid,) = [pid for pid in children() if pid != scene.host.pid]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(HostDied):
            await last
    finally:
        await pool.close()
    assert children() == [scene.host.pid]


def children() -> list[int]:
    """Agent processes of this one."""
    mine: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            is_agent = b"runner.agents.host" in (path / "cmdline").read_bytes()
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if is_agent and parent == os.getpid():
            mine.append(int(path.name))
    return mine
