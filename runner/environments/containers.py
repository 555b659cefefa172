"""Environments that are container images, by podman or docker where one of them answers.

The image's own command serves, as `hud serve` does; it says its port on stdout. A container has no network: each
connection to it is a process that the engine starts inside. Model calls of its own it cannot make.
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections import deque
from contextlib import suppress

from runner.environments.base import BuildFailed, Log, StartFailed
from runner.environments.fork_servers import last_line, lines_of
from runner.environments.isolation.base import Limits
from runner.environments.splicing import splice
from wire.placements import EnvironmentSpec

_ENGINES = ("podman", "docker")
_PORT_LINE = "HUD_SERVE_PORT="
_RELAY = """
import os, socket, sys, threading
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def forward():
    while data := os.read(0, 65536):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
threading.Thread(target=forward, daemon=True).start()
while data := connection.recv(65536):
    while data:
        data = data[os.write(1, data):]
"""


class Containers:
    """Pulls images and starts sessions of them. `engine`: its program."""

    def __init__(self, engine: str, limits: Limits, start_timeout_s: float) -> None:
        self._engine, self._limits, self._start_timeout_s = engine, limits, start_timeout_s

    async def pull(self, spec: EnvironmentSpec, log: Log) -> None:
        """Raises BuildFailed."""
        process = await _start(self._engine, "pull", "--", str(spec.image))
        try:
            assert process.stdout is not None
            said: deque[str] = deque(maxlen=20)
            async for line in lines_of(process.stdout):
                said.append(line)
                log(line)
            if await process.wait():
                raise BuildFailed(f"the image {spec.image} cannot be pulled: {last_line(said)}")
        finally:
            await _end(process)

    async def start(self, spec: EnvironmentSpec, log: Log) -> ContainerSession:
        """A container that answers. Raises StartFailed."""
        name, limits = f"headway-{uuid.uuid4().hex}", self._limits
        bounds = [f"--memory={limits.memory_bytes}", f"--pids-limit={limits.processes}"]
        apart = ["--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--rm", f"--name={name}"]
        variables = [f"--env={key}={value}" for key, value in spec.variables.items()]
        process = await _start(self._engine, "run", *apart, *bounds, *variables, "--", str(spec.image))
        session = ContainerSession(self._engine, name, process, log)
        try:
            await session.come_up(self._start_timeout_s)
        except BaseException:
            await session.stop()
            raise
        return session


class ContainerSession:
    """`Session` in a container."""

    def __init__(self, engine: str, name: str, process: asyncio.subprocess.Process, log: Log) -> None:
        self._engine, self._name, self._process, self._log = engine, name, process, log
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.address = ""
        self._port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.subprocess.Process] = set()
        self._attending = asyncio.create_task(self._attend())

    async def come_up(self, timeout_s: float) -> None:
        """Until it says its port. Raises StartFailed."""
        await asyncio.wait({self._port, self.ended}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self.ended.done():
            raise StartFailed(self.ended.result())
        if not self._port.done():
            raise StartFailed(f"the container did not say its port within {timeout_s:.0f} s")
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """By a process inside, whose standard streams are the connection. The image has a `python`."""
        if self.ended.done():
            raise ConnectionRefusedError(self.ended.result())
        command = ["exec", "-i", self._name, "python", "-c", _RELAY, str(self._port.result())]
        process = await asyncio.create_subprocess_exec(
            self._engine, *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        self._connections.add(process)
        assert process.stdout is not None
        assert process.stdin is not None
        return process.stdout, process.stdin

    async def stop(self) -> None:
        """With the engine's SIGKILL."""
        if self._server is not None:
            self._server.close()
        await _end(await _start(self._engine, "rm", "--force", self._name), timeout_s=20.0)
        await _end(self._process)
        for process in self._connections:
            await _end(process)
        self._attending.cancel()
        await asyncio.gather(self._attending, return_exceptions=True)

    async def _attend(self) -> None:
        assert self._process.stdout is not None
        said: deque[str] = deque(maxlen=20)
        async for line in lines_of(self._process.stdout):
            port = line.removeprefix(_PORT_LINE)
            if port != line and port.strip().isdigit() and not self._port.done():
                self._port.set_result(int(port))
            else:
                said.append(line)
                self._log(line)
        status = await self._process.wait()
        self.ended.set_result(last_line(said) or f"the container has ended with status {status}, and said nothing")

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await splice((reader, writer), await self.connect())
        except (OSError, asyncio.CancelledError):
            pass  # asyncio's streams would log that this task was cancelled
        finally:
            writer.close()


async def find_engine() -> str:
    """The first that answers. Raises BuildFailed with what is missing."""
    for name in _ENGINES:
        if shutil.which(name) is not None:
            process = await _start(name, "info")
            with suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await process.communicate()
            await _end(process)
            if process.returncode == 0:
                return name
    raise BuildFailed(
        "container images need podman or docker on the runner, and neither answers here: deploy the folder of the "
        "environment instead"
    )


async def _start(engine: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        engine,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )


async def _end(process: asyncio.subprocess.Process, timeout_s: float = 0.0) -> None:
    if timeout_s:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await process.communicate()
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
    await process.wait()
