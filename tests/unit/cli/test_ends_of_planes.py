"""A plane ends once its work is done, whatever threads of libraries and plugins it still has."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from store.catalog import ensure_base
from store.database import Database

REPOSITORY = Path(__file__).parents[3]
TINY_BASE = REPOSITORY / ".headway-cache" / "tiny-arith"
WITH_A_THREAD = """
import atexit, threading
from cli.start import start
threading.Thread(target=threading.Event().wait, name="of a plugin").start()
atexit.register(lambda: print("the exit functions ran"))
start()
"""
START_S, END_S = 120.0, 60.0
OF_THE_PLANES = {
    "trainer": ("--device", "cpu"),
    "sampler": ("--sampler-token", "secret", "--backend", "local", "--port", "0"),
}


@contextmanager
def plane(log: Path, *words: str) -> Generator[subprocess.Popen[bytes]]:
    """`headway WORDS…` in a process with a thread that never ends."""
    with log.open("wb") as said:
        command = [sys.executable, "-c", WITH_A_THREAD, *words]
        process = subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(log: Path, event: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while event not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize("kind", OF_THE_PLANES)
def test_a_plane_that_has_handed_everything_back_ends_though_a_thread_of_its_goes_on(
    kind: str, database: Database, postgres_url: str, tmp_path: Path
):
    with database.session() as session:
        ensure_base(session, "tiny-arith", str(TINY_BASE))
    log = tmp_path / "log"
    common = ("--database-url", postgres_url, "--base", "tiny-arith", "--data-dir", str(tmp_path), "--threads", "1")
    with plane(log, kind, *common, *OF_THE_PLANES[kind]) as process:
        wait_for(log, f"{kind}_ready", process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_S) == 0, log.read_text()
    assert f"{kind}_stopped" in log.read_text()
    assert "the exit functions ran" in log.read_text(), "what was printed last is written"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("server", "--host", "nowhere.invalid", "--database-url", "postgresql://x@127.0.0.1:9/x"), 1),
        (("runner", "--server", "nonsense"), 1),
        (("trainer", "--no-such-option"), 2),
        (("sampler", "--help"), 0),
    ],
)
def test_a_plane_that_cannot_start_ends_with_its_status_though_a_thread_of_its_goes_on(
    words: tuple[str, ...], status: int, tmp_path: Path
):
    with plane(tmp_path / "log", *words) as process:
        assert process.wait(END_S) == status, (tmp_path / "log").read_text()
