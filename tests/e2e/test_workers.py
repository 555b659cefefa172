"""`headway server --workers 2`: processes that share a port, one supervisor, nothing that outlives it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from store.embedded import EmbeddedPostgres
from store.migrations import upgrade


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
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
    command = [sys.executable, "-m", "server.cli", "server", "--workers", "2", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    yield process, port
    process.kill()
    process.wait()
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
    process, port = server
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
