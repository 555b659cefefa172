"""Code that harms whatever it can reach, as this user: `test_hostile_code_of_nobody.py` runs this as another."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.environments import sessions
from runner.environments.isolation.none import descendants
from tests.unit.runner.environments.played import Played, run

KEY = "hw-the-runners-own-key"


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the runner's user with a key in its environment."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={"HEADWAY_RUNNER_KEY": KEY}, stdin=subprocess.DEVNULL
    )
    yield process
    process.kill()
    process.wait()


def has_namespaces(played: Played) -> bool:
    return played.environments.isolation == "namespaces"


async def test_forking_without_end_ends_at_its_own_limit(played: Played) -> None:
    session = await played.start()
    bomb = """
        import os, time
        result = 0
        try:
            while result < 400:
                if os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
                result += 1
        except OSError as error:
            pass
    """
    try:
        forked = asyncio.create_task(run(session, bomb))
        await asyncio.wait({forked, session.ended}, return_when=asyncio.FIRST_COMPLETED)
        if forked.done() and forked.exception() is None:
            assert int(forked.result()) <= 48 + (0 if has_namespaces(played) else 8)
        async with played.session() as other:  # nobody else is out of processes
            assert await run(other, "result = 1") == "1"
        forked.cancel()
    finally:
        await session.stop()
    assert await _num_left(played) == 0


async def test_filling_memory_ends_that_session_alone(played: Played) -> None:
    fills = """
        import mmap
        kept = []
        for _ in range(40):
            kept.append(mmap.mmap(-1, 10 << 20))
            kept[-1].write(b"x" * (10 << 20))
        result = "all of it"
    """
    async with played.session() as other, played.session() as session:
        filling = asyncio.create_task(run(session, fills))
        async with asyncio.timeout(10):
            assert "memory" in await session.ended
        await asyncio.wait({filling})
        filling.exception()
        assert await run(other, "result = 1") == "1"


async def test_objects_beyond_the_limit_are_a_memory_error(played: Played) -> None:
    async with played.session() as session:
        caught = """
            try:
                kept = bytearray(400 << 20)
                result = "got it"
            except MemoryError:
                result = "MemoryError"
        """
        assert await run(session, caught) == "MemoryError"


async def test_filling_the_disk_fills_its_own(played: Played) -> None:
    fills = """
        import os, tempfile
        result = 0
        folder = tempfile.mkdtemp()
        try:
            for number in range(64):
                with open(os.path.join(folder, str(number)), "wb") as file:
                    for _ in range(4):
                        file.write(b"x" * (256 << 10))
                result += 1
        except OSError as error:
            result = error.strerror
    """
    async with played.session() as other, played.session() as session:
        filled = await run(session, fills)
        if has_namespaces(played):
            assert filled == "No space left on device"
        else:
            async with asyncio.timeout(5):
                assert "wrote more than 16 MiB" in await session.ended
        assert await run(other, "import tempfile; result = tempfile.TemporaryFile().write(b'x')") == "1"


async def test_ignoring_sigterm_is_of_no_use(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_TERM_S", 0.3)
    session = await played.start()
    ignores = """
        import os, signal, subprocess
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        daemon = subprocess.Popen(["/bin/sh", "-c", "trap '' TERM; sleep 60"], start_new_session=True)
        result = daemon.pid
    """
    await run(session, ignores)
    await asyncio.wait_for(session.stop(), 5)
    assert await _num_left(played) == 0


async def test_daemons_that_were_left_behind_are_ended(played: Played) -> None:
    session = await played.start()
    leaves = """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(60)
            os._exit(0)
        os.wait()
        result = "left"
    """
    assert await run(session, leaves) == "left"
    await session.stop()
    assert await _num_left(played) == 0


async def test_files_of_other_sessions_and_of_the_box_are_out_of_sight(played: Played) -> None:
    ours = Path(__file__)
    out_of_sight = [
        str(played.folder / "keys.txt"),
        str(played.folder / "environments" / "sources"),
        "/etc/shadow",
        str(ours),
        str(ours.parents[4] / "pyproject.toml"),
    ]
    async with played.session() as one, played.session() as other:
        wrote = await run(
            one,
            """
            import os, tempfile
            path = os.path.join(tempfile.mkdtemp(), "mine")
            open(path, "w").write("a secret")
            open(os.path.join(os.getcwd(), "beside_my_code.txt"), "w").write("a secret")
            result = path
            """,
        )
        looks = f"""
            import os
            seen = []
            for path in {[wrote, *out_of_sight]!r}:
                try:
                    seen.append(os.listdir(path) if os.path.isdir(path) else open(path).read())
                except OSError:
                    pass
            if os.path.exists("beside_my_code.txt"):
                seen.append("beside_my_code.txt")
            result = seen
        """
        assert await run(other, looks) == "[]"


async def test_keys_are_neither_in_its_environment_nor_in_proc(
    played: Played, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWAY_RUNNER_KEY", KEY)
    async with played.session() as session:
        searches = """
            import glob, os
            found = []
            for pattern in ("/proc/*/environ", "/proc/*/cmdline", "/proc/*/task/*/environ"):
                for path in glob.glob(pattern):
                    try:
                        if b"-own-key" in open(path, "rb").read():
                            found.append(path)
                    except OSError:
                        pass
            result = found + [name for name in os.environ if name.startswith("HEADWAY")] + [os.environ["HUD_API_KEY"]]
        """
        assert await run(session, searches) == "['headway']"


async def test_processes_of_others_are_neither_killed_nor_traced(
    played: Played, victim: subprocess.Popen[bytes]
) -> None:
    async with played.session() as session:
        attacks = f"""
            import ctypes, os, signal
            reached = []
            for pid in ({victim.pid}, {os.getpid()}):
                try:
                    os.kill(pid, signal.SIGUSR2)
                    reached.append(("kill", pid))
                except OSError:
                    pass
                if ctypes.CDLL(None).ptrace(16, pid, 0, 0) == 0:  # PTRACE_ATTACH
                    reached.append(("ptrace", pid))
                try:
                    open(f"/proc/{{pid}}/mem", "rb")
                    reached.append(("mem", pid))
                except OSError:
                    pass
            result = reached
        """
        assert await run(session, attacks) == "[]"
    assert victim.poll() is None


async def test_sockets_of_the_box_are_out_of_reach(played: Played) -> None:
    with (
        socket.socket(socket.AF_UNIX) as database,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket() as sampler,
    ):
        path = played.folder / "s.PGSQL.5432"
        path.unlink(missing_ok=True)
        database.bind(str(path))
        path.chmod(0o777)
        abstract.bind("\0headway-tests-abstract")
        sampler.bind(("127.0.0.1", 0))
        for listener in (database, abstract, sampler):
            listener.listen()
        async with played.session() as session:
            tries = f"""
                import socket
                result = []
                for family, address in (
                    (socket.AF_UNIX, {str(path)!r}),
                    (socket.AF_UNIX, "\\0headway-tests-abstract"),
                    (socket.AF_INET, ("127.0.0.1", {sampler.getsockname()[1]})),
                    (socket.AF_INET, ("192.0.2.2", 22)),
                    (socket.AF_INET, ("1.1.1.1", 53)),
                    (socket.AF_VSOCK, (2, 1024)),
                ):
                    try:
                        connection = socket.socket(family)
                        connection.settimeout(1)
                        connection.connect(address)
                        result.append(address)
                    except OSError:
                        pass
                try:
                    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("1.1.1.1", 53))
                    result.append("UDP")
                except OSError:
                    pass
            """
            assert await run(session, tries) == "[]"


async def test_its_python_and_its_packages_cannot_be_written(played: Played) -> None:
    async with played.session() as session:
        writes = """
            import hud, os, sys
            result = []
            packages = [os.path.dirname(module.__file__) for module in (hud, os)]
            for folder in (sys.prefix, sys.base_prefix, *packages, "/usr", "/"):
                try:
                    open(os.path.join(folder, "written.py"), "w")
                    result.append(folder)
                except OSError:
                    pass
        """
        assert await run(session, writes) == "[]"


async def test_it_cannot_be_root_nor_reach_the_kernels_keys(played: Played) -> None:
    async with played.session() as session:
        tries = """
            import ctypes, os
            libc = ctypes.CDLL(None, use_errno=True)
            result = [os.getuid() == 0]
            for call in (lambda: os.setuid(0), lambda: os.chroot("/"), lambda: os.nice(-5)):
                try:
                    call()
                    result.append("done")
                except OSError:
                    result.append("refused")
            result.append(libc.syscall(250, 0, -3, 1))  # keyctl(KEYCTL_GET_KEYRING_ID, session)
        """
        assert await run(session, tries) == "[False, 'refused', 'refused', 'refused', -1]"


async def test_writing_lines_without_end_leaves_the_runner_its_turns(played: Played) -> None:
    floods = """
        import os, threading
        def flood():
            while True:
                os.write(2, b"line\\n" * 4096)
        threading.Thread(target=flood, daemon=True).start()
        result = "flooding"
    """
    async with played.session() as other, played.session() as session:
        assert await run(session, floods) == "flooding"
        async with asyncio.timeout(10):
            for _ in range(10):
                assert await run(other, "result = 1") == "1"
    del played.lines[:]


async def test_modules_are_not_shared_by_sessions(played: Played) -> None:
    async with played.session() as one, played.session() as other:
        await run(one, "import json, random; json.mine = 1; result = 0")
        assert await run(other, "import json; result = hasattr(json, 'mine')") == "False"
        draws = [await run(each, "import random; result = random.random()") for each in (one, other)]
        assert draws[0] != draws[1]


def _server(played: Played) -> int:
    (served,) = played.environments._served.values()
    assert served._server is not None
    return served._server.pid


async def _num_left(played: Played) -> int:
    """Processes of the version's sandbox beside the fork server, once those that are just ending have ended."""
    number = 0
    for _ in range(20):
        number = len(descendants(_server(played))) - has_namespaces(played)
        if number == 0:
            break
        await asyncio.sleep(0.05)
    return number
