"""`headway server`, alone and as several processes that share a port: one supervisor, nothing that outlives it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select

from cli.box.children import Process
from server.auth.service import create_key
from server.main import _WORKER_START_S
from store.database import AsyncDatabase
from store.embedded import EmbeddedPostgres
from store.tables import ModelRow, OperationRow, TrainerRow
from tests.e2e.forked_up import fork_headway
from tests.postgres_template import lay_out


@dataclass
class Server:
    """A server to be: how it is started, and where it then answers."""

    command: list[str]
    environment: dict[str, str]
    port: int

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        def heed_interrupts() -> None:  # what runs in the background of a script ignores them
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        command = [*self.command, *options]
        return subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, preexec_fn=heed_interrupts)

    def fork(self, log: Path, *options: str) -> Process:
        """From a process that has imported everything."""
        with log.open("wb") as file:
            return fork_headway([*self.command, *options], self.environment, file.fileno())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    postgres = EmbeddedPostgres(lay_out(tmp_path / "postgres"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "HEADWAY_DATABASE_URL": postgres.url,
        "HEADWAY_SAMPLER_TOKEN": "token",
        "HEADWAY_DATA_DIR": str(tmp_path),
    }
    yield Server([sys.executable, "-m", "cli", "server", "--port", str(port)], environment, port)
    postgres.stop()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def workers(supervisor: int) -> set[int]:
    found = subprocess.run(["pgrep", "-P", str(supervisor), "-f", "spawn_main"], capture_output=True, text=True)
    return set(map(int, found.stdout.split()))


def until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_workers_are_replaced_and_end_with_their_supervisor(server):
    port = server.port
    with server.start("--workers", "2") as process:
        until(lambda: answers(port) and len(workers(process.pid)) == 2)
        before = workers(process.pid)
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(workers(process.pid)) == 2 and workers(process.pid) != before, _WORKER_START_S / 2)
        until(lambda: answers(port))
        left = workers(process.pid)
        process.kill()
        process.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))
        assert not answers(port)


async def new_model(server: Server, database: AsyncDatabase) -> tuple[str, dict[str, str]]:
    """A fork of a base whose trainer does nothing, and the headers of a key that may train it."""
    async with database.session() as session:
        key = await create_key(session, "team", "test")
        info = {"vocab_size": 9, "context_length": 9, "architecture": "T", "dtype": "d", "num_parameters": 1}
        session.add(base := ModelRow(slug="org/base", name="org/base", weights="/nowhere", info=info))
        await session.flush()
        session.add(TrainerRow(base_id=base.id, host="here", pid=1, losses={"ppo": {}}))
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        fork = {"source_model_id": "org/base", "name": "fork"}
        reply = await http.post(f"http://127.0.0.1:{server.port}/v2/models/fork", json=fork)
        assert reply.status_code == 201, reply.text
        return reply.json()["id"], headers


async def num_queued(database: AsyncDatabase) -> int:
    async with database.session() as session:
        return await session.scalar(select(func.count()).select_from(OperationRow)) or 0


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
async def test_sigterm_sends_callers_that_wait_away_with_a_sentence(workers, server):
    database = AsyncDatabase(server.environment["HEADWAY_DATABASE_URL"])

    async def step(url: str, headers: dict[str, str], index: int) -> httpx.Response:
        """One of its own: identical ones may share an operation."""
        async with httpx.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
            return await http.post(url, json={"learning_rate": 1e-3 * (1 + index)})

    with server.start("--workers", str(workers)) as process:
        try:
            await asyncio.to_thread(until, lambda: answers(server.port))
            model_id, headers = await new_model(server, database)
            url = f"http://127.0.0.1:{server.port}/v1/models/{model_id}/train/optim-step"
            # A connection each: otherwise all of them land in one worker.
            calls = [asyncio.create_task(step(url, headers, index)) for index in range(8)]
            while await num_queued(database) < len(calls):
                assert not any(call.done() for call in calls), [call.result().text for call in calls if call.done()]
                await asyncio.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            replies = await asyncio.gather(*calls)
            assert [reply.status_code for reply in replies] == [503] * len(replies)
            assert {reply.headers["retry-after"] for reply in replies} == {"5"}
            assert all("this server is stopping" in reply.json()["detail"] for reply in replies)
            assert await asyncio.to_thread(process.wait, 30) in (0, -signal.SIGTERM)
        finally:
            process.kill()
    await database.close()


def test_a_port_that_is_taken_is_told_and_an_interrupt_is_no_failure(server, tmp_path: Path):
    process = server.fork(tmp_path / "first", "--host", "localhost")
    try:
        until(lambda: answers(server.port))
        second = server.fork(tmp_path / "second")
        assert second.wait(60) == 1
        told = (tmp_path / "second").read_text()
        assert f"cannot listen on 127.0.0.1, port {server.port}: Address already in use" in told
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
