"""Who races: what is started, what it does not do, and the pipe on which it is asked for steps."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx

from bench import process_tree
from bench.process_tree import MARK, cpu_s, marked, pss_mib

DRIVER = Path(__file__).parent / "sdk_driver.py"
RANK = 16
MAX_MODELS = 33
"""The most that train at once, and the untrained one that is checked."""

START_S, _ANSWER_S = 240.0, 180.0
_LEAST_FREE_MIB = 1500


class Failed(RuntimeError):
    """A contender did not start, answer in time or fit the machine; the message says which."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a contender gets: the base's folder, and an empty one for everything that it writes."""

    base: Path
    folder: Path


@dataclass(frozen=True, slots=True)
class Contender:
    """does_not: what Headway does in the same step and this one does not. start: into the running it is given."""

    name: str
    does_not: str
    start: Callable[[Place, Running], None]
    max_models: int = MAX_MODELS - 1


@dataclass(slots=True)
class Running:
    """A contender's processes, which carry a mark, and its driver. `with` ends all of them.

    root: has the base in `base`; each start gets a new folder beside it. trouble: why it did not start.
    """

    root: Path
    contender: Contender
    place: Place = field(init=False)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    starts: int = 0
    trouble: str = ""
    owes_answer: bool = False
    _driver: subprocess.Popen[str] | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def is_up(self) -> bool:
        """Whether it was started, and not ended since."""
        return self._driver is not None

    def start(self) -> None:
        """Its service and its driver. Raises Failed or NotInstalled."""
        folder = self.root / f"{self.contender.name}-{self.starts}"
        folder.mkdir()
        self.place, self.owes_answer, self.trouble = Place(self.root / "base", folder), False, ""
        self.starts += 1
        self.contender.start(self.place, self)

    def end(self) -> None:
        """All of its processes. It may be started again."""
        if self._driver is not None:
            self._driver.kill()
            self._driver.wait()
            self._driver = None
        process_tree.end(self.mark)
        self._stack.close()

    @property
    def service_log(self) -> Path:
        """What the service prints."""
        return self.place.folder / "service.log"

    def serve(self, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a service, whose output goes to a log in the folder."""
        log = self._log(self.service_log.name)
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.place.folder, env=self._env(env or {})
        )

    def drive(
        self, command: Sequence[str | Path], env: Mapping[str, str] | None = None, is_contender: bool = False
    ) -> None:
        """Start the driver and wait until it is ready. is_contender: it is the contender itself, no client of one."""
        environment = self._env(env or {}) if is_contender else {**os.environ, **(env or {})}
        self._driver = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log("driver.log"),
            text=True,
            env=environment,
        )
        self._answer(START_S)

    def ask(self, do: str, within_s: float = _ANSWER_S, **arguments: Any) -> dict[str, Any]:
        """The driver's answer. Raises Failed, and if none came, it is owed."""
        self._send(do, arguments)
        return self._answer(within_s)

    def peak_mib(self, do: str, **arguments: Any) -> float:
        """The most memory of all processes while the driver does that, looked at every 50 ms."""
        self._send(do, arguments)
        peak = self.memory_mib()
        while not self._has_answered(0.05):
            peak = max(peak, self.memory_mib())
        self._answer(_ANSWER_S)
        return peak

    def memory_mib(self) -> float:
        """Now."""
        return pss_mib(marked(self.mark))

    def cpu_s(self) -> float:
        """So far."""
        return cpu_s(marked(self.mark))

    def _send(self, do: str, arguments: Mapping[str, Any]) -> None:
        assert self._driver
        assert self._driver.stdin
        self.owes_answer = True
        try:
            print(json.dumps({"do": do, **arguments}), file=self._driver.stdin, flush=True)
        except BrokenPipeError:
            raise Failed(self._last_words()) from None

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while not self._has_answered(1.0):
            if time.monotonic() > deadline:
                raise Failed(f"no answer in {timeout_s:.0f} s")
            if free_mib() < _LEAST_FREE_MIB:
                raise Failed(f"took {self.memory_mib():.0f} MiB, more than this machine has left")
        assert self._driver
        assert self._driver.stdout
        line = self._driver.stdout.readline()
        if not line:
            raise Failed(self._last_words())
        self.owes_answer = False
        return json.loads(line)

    def _has_answered(self, within_s: float) -> bool:
        assert self._driver
        assert self._driver.stdout
        return bool(select.select([self._driver.stdout], [], [], within_s)[0])

    def _last_words(self) -> str:
        lines = (self.place.folder / "driver.log").read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "its driver ended"

    def _env(self, env: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, **env, MARK: self.mark}

    def _log(self, name: str) -> IO[bytes]:
        return self._stack.enter_context((self.place.folder / name).open("wb"))


def free_port() -> int:
    """Of the loopback interface; nobody has it when it is returned."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(url: str, service: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers 200. Raises Failed."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise Failed(f"ended while it started: {' '.join(log.read_text(errors='replace').split())[-200:]}")
        try:
            if httpx.get(url, timeout=5, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise Failed(f"did not start in {START_S:.0f} s")


def free_mib() -> float:
    """What the machine could give to processes without swapping."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) / 1024
