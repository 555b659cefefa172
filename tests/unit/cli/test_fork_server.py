"""Processes forked from one that has imported their libraries behave like those that were started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from cli.box import fork_server
from cli.box.children import Child, Children, environment_of_child
from cli.box.fork_server import ForkServer, can_fork_planes
from cli.box.forked_process import ForkedProcess
from store.catalog import ensure_base
from store.database import Database
from tests.unit.cli import forking_with_a_plugin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux alone")

HEADWAY = [sys.executable, "-m", "cli"]
ENVIRONMENT = {name: value for name, value in environment_of_child({}).items() if name != "PYTEST_CURRENT_TEST"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with (
        patch.object(fork_server, "_MODULE", forking_with_a_plugin.__name__),
        ForkServer(tmp_path_factory.mktemp("server") / "log", ENVIRONMENT) as server,
    ):
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ForkServer]:
    """Without libraries, so that it is ready at once."""
    with (
        patch.object(fork_server, "_MODULE", "tests.unit.cli.forking_nothing"),
        ForkServer(tmp_path / "log", ENVIRONMENT) as server,
    ):
        yield server


@pytest.fixture
def fork(tmp_path: Path) -> Callable[..., tuple[ForkedProcess, Path]]:
    """The forked `headway …`, and the log that it writes to."""

    def start(server: ForkServer, *arguments: str, **variables: str) -> tuple[ForkedProcess, Path]:
        with (log := tmp_path / "said").open("wb") as file:
            process = server.fork([*HEADWAY, *arguments], {**ENVIRONMENT, **variables}, file.fileno())
        assert process is not None
        return process, log

    return start


@pytest.fixture
def follower(tmp_path: Path) -> tuple[str, ...]:
    """A command that lasts."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "x.log").write_text("a line\n")
    return ("logs", "--follow", "--data-dir", str(tmp_path))


def ends_with(read: Callable[[], str], what: str) -> bool:
    deadline = time.monotonic() + 20
    while not read().endswith(what) and time.monotonic() < deadline:
        time.sleep(0.02)
    return read().endswith(what)


def test_a_fork_has_the_libraries_and_its_own_arguments_environment_and_log(server: ForkServer, fork, tmp_path: Path):
    process, log = fork(server, "logs", HEADWAY_DATA_DIR=str(tmp_path / "nowhere"))
    assert process.wait(20) == 1
    assert log.read_text().startswith(f"headway: there are no logs in {tmp_path}/nowhere/logs: `headway up` writes")


def test_a_fork_is_our_child_in_a_session_of_its_own_and_shows_its_command(server: ForkServer, fork, follower):
    process, log = fork(server, *follower)
    assert ends_with(log.read_text, "a line\n")
    assert os.getsid(process.pid) == process.pid
    status = Path(f"/proc/{process.pid}/status").read_text()
    assert f"PPid:\t{os.getpid()}\n" in status
    assert "Threads:\t1\n" in status
    shown = Path(f"/proc/{process.pid}/cmdline").read_text().rstrip("\0").split("\0")
    assert shown == [*HEADWAY, *follower]
    assert shared_mib(process.pid) > 100
    process.kill()
    process.wait(20)


def shared_mib(pid: int) -> float:
    """What it has in common with the fork server, libraries' files apart."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in rollup if line.startswith("Shared_Dirty:")).split()[1]) / 1024


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_fork_ends_by_signals_and_the_status_says_by_which(own_server: ForkServer, fork, follower, signum):
    process, log = fork(own_server, *follower)
    assert ends_with(log.read_text, "a line\n")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    process.send_signal(signum)
    assert process.wait(20) == -signum
    process.send_signal(signum)  # to nobody


def test_a_fork_outlives_the_server_and_the_one_after_the_next_is_forked_again(own_server: ForkServer, fork, follower):
    survivor, log = fork(own_server, *follower)
    assert ends_with(log.read_text, "a line\n")
    os.kill(own_server.pid, signal.SIGKILL)
    assert own_server.fork([*HEADWAY, "--version"], ENVIRONMENT, 2) is None
    process, log = fork(own_server, "--version")
    assert (process.wait(20), log.read_text()) == (0, "headway 0.1.0\n")
    assert survivor.poll() is None
    survivor.kill()
    survivor.wait(20)


def test_a_server_that_does_not_answer_is_given_up(own_server: ForkServer, fork):
    fork(own_server, "--version")[0].wait(20)
    os.kill(own_server.pid, signal.SIGSTOP)
    with patch.object(fork_server, "_FORKED_WITHIN_S", 0.2):
        assert own_server.fork([*HEADWAY, "--version"], ENVIRONMENT, 2) is None


def test_what_libraries_read_on_import_is_as_the_process_shall_have_it(own_server: ForkServer):
    assert own_server.fork([*HEADWAY, "--version"], {**ENVIRONMENT, "OMP_NUM_THREADS": "7"}, 2) is None


@pytest.mark.parametrize("module", ["no_such_module", "forking_beside_a_thread"], ids=["at once", "after a while"])
def test_a_server_that_ends_by_itself_is_not_started_again(tmp_path: Path, module: str):
    with (
        patch.object(fork_server, "_MODULE", f"tests.unit.cli.{module}"),
        ForkServer(tmp_path / "log", ENVIRONMENT) as server,
    ):
        first = server.pid
        for _ in range(3):
            assert server.fork([*HEADWAY, "--version"], ENVIRONMENT, 2) is None
        assert server.pid == first


def test_what_was_upgraded_meanwhile_is_imported_anew(tmp_path: Path, fork):
    """A plane's own modules are imported after the fork, and need not fit those from before."""
    (library := tmp_path / "written_by_a_test.py").write_text("")
    path = os.pathsep.join([str(tmp_path), *filter(None, [ENVIRONMENT.get("PYTHONPATH")])])
    environment, version = {**ENVIRONMENT, "PYTHONPATH": path}, [*HEADWAY, "--version"]
    with (
        patch.object(fork_server, "_MODULE", "tests.unit.cli.forking_nothing"),
        ForkServer(tmp_path / "log", environment) as server,
    ):
        fork(server, "--version", PYTHONPATH=path)[0].wait(20)
        library.write_text("of = 'another version'")
        assert server.fork(version, environment, 2) is None
        fork(server, "--version", PYTHONPATH=path)[0].wait(20)
        library.unlink()
        assert server.fork(version, environment, 2) is None


def test_a_plane_that_was_being_forked_when_all_is_stopped_ends_too(own_server: ForkServer, tmp_path: Path):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with patch.object(fork_server, "_adopted", stop), pytest.raises(KeyboardInterrupt) as stopped:
        own_server.fork([*HEADWAY, "--version"], ENVIRONMENT, 2)
    frame = next(entry.frame for entry in stopped.traceback if entry.name == "fork")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(frame.f_locals["writing"])


@pytest.mark.parametrize("is_there", [True, False])
@patch.dict(os.environ, ENVIRONMENT, clear=True)  # pytest's changes with each test, as no box's does
def test_children_are_started_where_they_cannot_be_forked(own_server: ForkServer, tmp_path: Path, is_there: bool):
    if not is_there:
        os.kill(own_server.pid, signal.SIGKILL)
        os.waitid(os.P_PID, own_server.pid, os.WEXITED | os.WNOWAIT)
    with Children(tmp_path, own_server) as children:
        child = Child("plane", [*HEADWAY, "--version"], {}, stays_down=True, is_forked=True)
        children.start(child)
        assert isinstance(child.process, ForkedProcess if is_there else subprocess.Popen)
        while not (deaths := children.restart_dead()):
            time.sleep(0.02)
    assert [(death.status, death.last_words.partition(" (")[0]) for death in deaths] == [(0, "headway 0.1.0")]


def test_no_plane_is_forked_where_there_is_a_gpu():
    with patch.object(Path, "glob", lambda self, pattern: [Path("/dev/nvidia0")]):
        assert not can_fork_planes()


# A plane ends once its work is done, whatever threads of libraries and plugins it still has.

TINY_BASE = Path(__file__).parents[3] / ".headway-cache" / "tiny-arith"
START_S, END_S = 120.0, 60.0
OF_THE_PLANES = {
    "trainer": ("--device", "cpu"),
    "sampler": ("--sampler-token", "secret", "--backend", "local", "--port", "0"),
}


@pytest.fixture
def plane(server: ForkServer, fork) -> Iterator[Callable[..., tuple[ForkedProcess, Path]]]:
    """Starts `headway WORDS…` with a thread that never ends."""
    started: list[ForkedProcess] = []

    def start(*words: str) -> tuple[ForkedProcess, Path]:
        process, log = fork(server, *words, **{forking_with_a_plugin.VARIABLE: "1"})
        started.append(process)
        return process, log

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
    kind: str, plane, database: Database, postgres_url: str, tmp_path: Path
):
    with database.session() as session:
        ensure_base(session, "tiny-arith", str(TINY_BASE))
    common = ("--database-url", postgres_url, "--base", "tiny-arith", "--data-dir", str(tmp_path), "--threads", "1")
    process, log = plane(kind, *common, *OF_THE_PLANES[kind])
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
    words: tuple[str, ...], status: int, plane
):
    process, log = plane(*words)
    assert process.wait(END_S) == status, log.read_text()
