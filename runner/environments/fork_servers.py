"""Sandboxes and the fork servers in them, as the runner sees them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

from runner.environments.base import StartFailed
from runner.environments.cgroups import Cgroup
from runner.environments.channels import Channel
from runner.environments.inside import messages
from runner.environments.isolation.base import Bind, Sandbox, SessionPlace

OURS = Path(__file__).parents[2]
"""Where our packages lie on this machine."""
OURS_INSIDE = "/headway"
_LAUNCH = "import sys; sys.path.insert(0, sys.argv[1]); from runner.environments.inside.launch import main; main()"
_SERVE = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from runner.environments.inside.fork_server import main; main()"
)
_TAIL_LINES = 50
_CHUNK = 64 << 10


class SandboxProcess:
    """A sandbox: its launcher, and the channel to what it executes."""

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self._process, self.channel = process, channel
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        """The last lines of its stderr."""
        self._reading: list[asyncio.Task[None]] = []

    @classmethod
    async def start(
        cls, sandbox: Sandbox, take_line: Callable[[str], None] | None = None, cgroup: Cgroup | None = None
    ) -> SandboxProcess:
        """`take_line`: gets each line that it writes. Nothing of this process's environment goes into it."""
        ours, theirs = messages.socket_pair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", "-c", _LAUNCH, str(OURS)),
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    env={},
                    cwd="/",
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        started = cls(process, Channel(ours))
        assert process.stdout is not None
        assert process.stderr is not None
        started._reading = [
            asyncio.create_task(started._read(process.stdout, take_line)),
            asyncio.create_task(started._read(process.stderr, take_line)),
        ]
        try:
            if cgroup is not None:
                cgroup.add(process.pid)
            started.channel.send(sandbox.as_json())
        except BaseException:
            await started.kill()
            raise
        return started

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        """Of the launcher."""
        return self._process.pid

    async def wait(self) -> int:
        """Its status, when all that it wrote has been read."""
        status = await self._process.wait()
        await asyncio.wait(self._reading, timeout=1.0)
        return status

    async def kill(self) -> None:
        """With all that it forked. When this returns it has ended."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)
        self.channel.close()

    async def _read(self, stream: asyncio.StreamReader, take_line: Callable[[str], None] | None) -> None:
        async for line in lines_of(stream):
            self.tail.append(line)
            if take_line is not None:
                take_line(line)


async def lines_of(stream: asyncio.StreamReader, max_chars: int = 4000) -> AsyncIterator[str]:
    """Lines as they come, cut where they are long; whatever bytes they are. Who writes without end is read at 6 MB/s:
    the rest of the runner has its turns."""
    pending = b""
    while chunk := await stream.read(_CHUNK):
        if len(chunk) == _CHUNK:
            await asyncio.sleep(0.01)
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace").rstrip("\r")[:max_chars]
        if len(pending) > max_chars:
            yield pending.decode(errors="replace")[:max_chars]
            pending = b""
    if pending:
        yield pending.decode(errors="replace")[:max_chars]


class ForkServer:
    """Forks sessions of one version of an environment. `import_s`: what the SDK took to import."""

    def __init__(self, sandbox: SandboxProcess, import_s: float) -> None:
        self._sandbox = sandbox
        self.import_s = import_s

    @classmethod
    async def start(cls, sandbox: Sandbox, timeout_s: float) -> ForkServer:
        """Raises StartFailed with the sentence that says why the SDK cannot serve."""
        process = await SandboxProcess.start(sandbox)
        try:
            async with asyncio.timeout(timeout_s):
                first = await process.channel.receive()
                if first is not None and first.fields.get("ready"):
                    return cls(process, float(first.fields.get("import_s", 0.0)))
                if first is None:
                    await process.wait()
        except TimeoutError:
            await process.kill()
            raise StartFailed(f"the environment's Python did not load within {timeout_s:.0f} s") from None
        except BaseException:
            await process.kill()
            raise
        await process.kill()
        said = None if first is None else first.fields.get("unusable")
        raise StartFailed(str(said or last_line(process.tail) or "the environment's Python ended as it started"))

    @property
    def is_running(self) -> bool:
        return self._sandbox.is_running

    @property
    def pid(self) -> int:
        return self._sandbox.pid

    def fork(self, place: SessionPlace, end: int, out: int, err: int) -> None:
        """A session that reads `end` and writes to `out` and `err`. Raises OSError when the server has ended."""
        self._sandbox.channel.send(place.as_json(), [end, out, err])

    async def close(self) -> None:
        """With all of its sessions."""
        await self._sandbox.kill()


def last_line(lines: deque[str]) -> str | None:
    """The last that says something."""
    return next((line.strip() for line in reversed(lines) if line.strip()), None)


def serving_arguments(python: str, isolation: str, ours: str) -> list[str]:
    """The command of a fork server."""
    return [python, "-P", "-c", _SERVE, ours, isolation]


def own_code(modules: tuple[str, ...] = ("runner",)) -> list[Bind]:
    """Our packages, as sandboxes with a root of their own see them."""
    return [Bind(str(OURS / name), os.path.join(OURS_INSIDE, name)) for name in modules]
