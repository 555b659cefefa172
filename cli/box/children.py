"""The child processes of `headway up`: started together, restarted when they die, stopped cleanly."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import typer

from cli.box.fork_server import ForkServer
from cli.box.forked_process import ForkedProcess
from wire.process.exits import GAVE_UP_STATUS, STOP_S
from wire.process.lifeline import VARIABLE

EVENT = "loading_weights"
_SAID = re.compile(r"""said["']?[=:] ?["'](.+?)["'](?:[ ,}]|$)""")
_TAIL_BYTES = 4096
_RESTART_PAUSE_S = 1.0
_MAX_PAUSE_S = 30.0
_HEALTHY_S = 60.0  # a child that lived for so long is started again after the shortest pause


Process = subprocess.Popen[bytes] | ForkedProcess


class ChildFailed(RuntimeError):
    """A child did not come up."""


@dataclass(slots=True)
class Child:
    """One process: its name, command line, and what it gets in its environment. `stays_down`: it may end. `stop_s`:
    after SIGTERM, it gets so long to end. `withheld`: prefixes of variables of ours that it does not get.
    `stops_first`: it has ended before the others get SIGTERM. `is_optional`: the others can do without it.
    `is_forked`: from the fork server, where there is one."""

    name: str
    command: list[str]
    environment: dict[str, str]
    stays_down: bool = False
    stop_s: float = STOP_S
    withheld: tuple[str, ...] = ()
    stops_first: bool = False
    is_optional: bool = False
    is_forked: bool = False
    process: Process | None = None
    started_at: float = 0.0
    pause_s: float = _RESTART_PAUSE_S / 2
    restart_at: float | None = None


@dataclass(frozen=True, slots=True)
class Death:
    """A process that ended: with which status, and its last words."""

    child: Child
    pid: int
    status: int
    last_words: str


class Children:
    """Keeps every child alive until the end of the block. Each writes to `<logs>/<name>.log`."""

    def __init__(self, logs: Path, fork_server: ForkServer | None = None) -> None:
        self.logs, self._fork_server = logs, fork_server
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, child: Child) -> None:
        """Start a child and keep watch over it."""
        self._children.append(child)
        self._spawn(child)

    def check_started(self) -> None:
        """Raises ChildFailed, with its last words, if a child has already ended that the others need."""
        for child in self._children:
            assert child.process is not None
            if child.process.poll() is not None and not child.is_optional:
                raise ChildFailed(f"{child.name} could not start: {self._last_words(child)}")

    def is_running(self, name: str) -> bool:
        """Whether there is a child of this name."""
        return any(child.name == name for child in self._children)

    def progress(self) -> dict[str, str]:
        """Who loads weights just now, and how far that is, as their logs say."""
        found = ((child.name, progress_in(self.logs / f"{child.name}.log")) for child in self._children)
        return {name: said for name, said in found if said}

    def restart_dead(self) -> list[Death]:
        """Note who died, and start them again after a pause that doubles while they keep dying."""
        ended = [(c, c.process, c.process.poll()) for c in self._children if c.process]
        deaths = [self._record_exit(child, process, status) for child, process, status in ended if status is not None]
        self._children = [c for c in self._children if c.process or not c.stays_down]
        for child in self._children:
            if child.restart_at is not None and time.monotonic() >= child.restart_at:
                self._spawn(child)
        return deaths

    def stop(self) -> None:
        """SIGTERM to all; SIGKILL to those that do not end in time."""
        for is_first in (True, False):
            running = [(c, c.process) for c in self._children if c.process and c.stops_first == is_first]
            for _, process in running:
                _signal(process, signal.SIGTERM)
            told_at = time.monotonic()
            for child, process in running:
                end_process(process, told_at + child.stop_s - time.monotonic())

    def kill(self) -> None:
        """SIGKILL to all, also from a signal's handler while `stop` waits for them."""
        for process in [child.process for child in self._children if child.process]:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                process.kill()

    def _spawn(self, child: Child) -> None:
        child.started_at, child.restart_at = time.monotonic(), None
        environment = environment_of_child(child.environment, child.withheld)
        with (self.logs / f"{child.name}.log").open("ab") as log:
            child.process = self._forked(child, environment, log.fileno()) or subprocess.Popen(
                child.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches us alone; we stop the children in order
            )

    def _forked(self, child: Child, environment: dict[str, str], log: int) -> ForkedProcess | None:
        if self._fork_server is None or not child.is_forked:
            return None
        return self._fork_server.fork(child.command, environment, log)

    def _record_exit(self, child: Child, process: Process, status: int) -> Death:
        child.process = None
        death = Death(child, process.pid, status, self._last_words(child))
        if death.status == GAVE_UP_STATUS:
            typer.echo(f"headway: {child.name} gave up, and is not started again: {death.last_words}", err=True)
        elif not child.stays_down:
            lived_s = time.monotonic() - child.started_at
            child.pause_s = _RESTART_PAUSE_S if lived_s > _HEALTHY_S else min(child.pause_s * 2, _MAX_PAUSE_S)
            child.restart_at = time.monotonic() + child.pause_s
            then = f"starting it again in {child.pause_s:.0f} s"
            typer.echo(f"headway: {child.name} ended with status {death.status}; {then}: {death.last_words}", err=True)
        elif death.status:
            typer.echo(f"headway: {child.name} ended with status {death.status}: {death.last_words}", err=True)
        return death

    def _last_words(self, child: Child) -> str:
        path = self.logs / f"{child.name}.log"
        lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        return f"{lines[-1] if lines else 'it said nothing'} (log: {path})"


def progress_in(path: Path) -> str | None:
    """What the last line of a log says about loading weights; None where the process has gone on to something else."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return None
    found = _SAID.search(lines[-1]) if lines and EVENT in lines[-1] else None
    return found[1] if found else None


def environment_of_child(variables: Mapping[str, str], withheld: tuple[str, ...] = ()) -> dict[str, str]:
    """Ours, but for what begins with `withheld`; these; and what every child gets."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(withheld)}
    return {**inherited, **variables, VARIABLE: "1", "PYTHONUNBUFFERED": "1"}


def end_process(process: Process, timeout_s: float = STOP_S) -> None:
    """SIGTERM, and SIGKILL if that is not enough in time."""
    _signal(process, signal.SIGTERM)
    try:
        process.wait(max(0.1, timeout_s))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _signal(process: Process, signum: signal.Signals) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signum)
