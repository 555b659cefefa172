"""A plane ends once its work is done, whatever threads of libraries and plugins it still has."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from cli.box import fork_server
from cli.box.fork_server import ForkServer
from cli.box.forked_process import ForkedProcess
from store.catalog import ensure_base
from store.database import Database
from tests.unit.cli import test_fork_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="planes are forked on Linux alone")

REPOSITORY = Path(__file__).parents[3]
TINY_BASE = REPOSITORY / ".headway-cache" / "tiny-arith"
ENVIRONMENT = {name: value for name, value in test_fork_server.ENVIRONMENT.items() if name != "PYTHONUNBUFFERED"}
"""Whoever ends has to write what was printed last."""
START_S, END_S = 120.0, 60.0
OF_THE_PLANES = {
    "trainer": ("--device", "cpu"),
    "sampler": ("--sampler-token", "secret", "--backend", "local", "--port", "0"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Forks planes with a thread that never ends, whose libraries are imported once for all."""
    with (
        patch.object(fork_server, "_MODULE", "tests.unit.cli.forking_with_a_plugin"),
        ForkServer(tmp_path_factory.mktemp("server") / "log", ENVIRONMENT) as server,
    ):
        yield server


@pytest.fixture
def plane(server: ForkServer, tmp_path: Path) -> Iterator[Callable[..., ForkedProcess]]:
    """Starts `headway WORDS…`, which writes to the file `log`."""
    started: list[ForkedProcess] = []

    def start(*words: str) -> ForkedProcess:
        with (tmp_path / "log").open("wb") as said:
            process = server.fork([sys.executable, "-m", "cli", *words], ENVIRONMENT, said.fileno())
        assert process is not None
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(log: Path, event: str, process: ForkedProcess) -> None:
    deadline = time.monotonic() + START_S
    while event not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize("kind", OF_THE_PLANES)
def test_a_plane_that_has_handed_everything_back_ends_though_a_thread_of_its_goes_on(
    kind: str, plane: Callable[..., ForkedProcess], database: Database, postgres_url: str, tmp_path: Path
):
    with database.session() as session:
        ensure_base(session, "tiny-arith", str(TINY_BASE))
    log = tmp_path / "log"
    common = ("--database-url", postgres_url, "--base", "tiny-arith", "--data-dir", str(tmp_path), "--threads", "1")
    process = plane(kind, *common, *OF_THE_PLANES[kind])
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
    words: tuple[str, ...], status: int, plane: Callable[..., ForkedProcess], tmp_path: Path
):
    assert plane(*words).wait(END_S) == status, (tmp_path / "log").read_text()
