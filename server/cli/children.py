"""The child processes of `headway up`: started together, restarted when they die, stopped cleanly."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import typer

from wire.lifeline import VARIABLE

_STOP_TIMEOUT_S = 20.0
_RESTART_PAUSE_S = 1.0
_GIVE_UP_AFTER = 5  # deaths within a minute


class ChildFailed(RuntimeError):
    """A child did not come up, or keeps dying."""


@dataclass(slots=True)
class Child:
    """One process: its name, command line, and what it gets in its environment."""

    name: str
    command: list[str]
    environment: dict[str, str]
    deaths: list[float] = field(default_factory=list[float])
    process: subprocess.Popen[bytes] | None = None


class Children:
    """Keeps every child alive until the end of the block. Each writes to `<logs>/<name>.log`."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
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
        """Raises ChildFailed, with its last words, if a child has already ended."""
        for child in self._children:
            assert child.process is not None
            if child.process.poll() is not None:
                raise ChildFailed(f"{child.name} could not start: {self._last_words(child)}")

    def tend(self) -> None:
        """Restart children that died. Raises ChildFailed when one keeps dying."""
        for child in self._children:
            assert child.process is not None
            if child.process.poll() is not None:
                self._restart(child)

    def stop(self) -> None:
        """SIGTERM to all; SIGKILL to those that do not end in time."""
        running = [c.process for c in self._children if c.process]
        for process in running:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for process in running:
            end_process(process, deadline - time.monotonic())

    def _spawn(self, child: Child) -> None:
        with (self.logs / f"{child.name}.log").open("ab") as log:
            child.process = subprocess.Popen(
                child.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **child.environment, VARIABLE: "1", "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C reaches us alone; we stop the children in order
            )

    def _restart(self, child: Child) -> None:
        now = time.monotonic()
        child.deaths = [at for at in child.deaths if now - at < 60.0] + [now]
        if len(child.deaths) >= _GIVE_UP_AFTER:
            raise ChildFailed(f"{child.name} keeps dying: {self._last_words(child)}")
        assert child.process is not None
        typer.echo(f"headway: {child.name} ended with status {child.process.returncode}; starting it again", err=True)
        time.sleep(_RESTART_PAUSE_S)
        self._spawn(child)

    def _last_words(self, child: Child) -> str:
        path = self.logs / f"{child.name}.log"
        lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        return f"{lines[-1] if lines else 'it said nothing'} (log: {path})"


def end_process(process: subprocess.Popen[bytes], timeout_s: float = _STOP_TIMEOUT_S) -> None:
    """SIGTERM, and SIGKILL if that is not enough in time."""
    _signal(process, signal.SIGTERM)
    try:
        process.wait(max(0.1, timeout_s))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _signal(process: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signum)
