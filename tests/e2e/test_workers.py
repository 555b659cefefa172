"""`headway server`, alone and as several processes that share a port: one supervisor, nothing that outlives it."""

from __future__ import annotations

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

from store.embedded import EmbeddedPostgres
from store.migrations import upgrade


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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    postgres = EmbeddedPostgres(tmp_path / "postgres")
    upgrade(postgres.url)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "HEADWAY_DATABASE_URL": postgres.url,
        "HEADWAY_SAMPLER_TOKEN": "token",
        "HEADWAY_DATA_DIR": str(tmp_path),
    }
    yield Server([sys.executable, "-m", "server.cli", "server", "--port", str(port)], environment, port)
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
        until(lambda: len(workers(process.pid)) == 2 and workers(process.pid) != before)
        until(lambda: answers(port))
        left = workers(process.pid)
        process.kill()
        process.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))
        assert not answers(port)


def test_a_port_that_is_taken_is_told_and_an_interrupt_is_no_failure(server):
    with server.start("--host", "localhost") as process:
        until(lambda: answers(server.port))
        with server.start() as second:
            _, told = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"cannot listen on 127.0.0.1, port {server.port}: Address already in use" in told.decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
