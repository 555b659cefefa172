"""Starts processes from one that has imported their libraries (`cli.box.forking`), where that can be done.

Whoever gets None starts the process as any other: where the fork server has died, does not answer, has another
environment than the process shall have, or has imported files that were replaced since, as by an upgrade. It is started
anew for the next one, unless it ended by itself.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from cli.box.forked_process import ForkedProcess
from cli.box.forking import READY

_PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h
_IMPORTED_WITHIN_S, _FORKED_WITHIN_S, _ENDED_WITHIN_S = 120.0, 10.0, 10.0
_MODULE = "cli.box.forking"
_PADDING = "." * 2048
"""Room for the command lines that forks show."""


def can_fork_planes() -> bool:
    """Whether planes may be forked here: on Linux without a GPU, for CUDA does not outlive a fork."""
    return sys.platform == "linux" and not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/kfd").exists()


class ForkServer:
    """The process and the socket to it. For one thread."""

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        """environment: that of the processes to come, but for variables of ours, which nothing reads on import."""
        self.log, self._environment = log, dict(environment)
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def pid(self) -> int:
        """Of the process now."""
        return self._process.pid

    def fork(self, command: list[str], environment: Mapping[str, str], log: int) -> ForkedProcess | None:
        """A process with that descriptor as its stdout and stderr. command: [python, "-m", "cli", …]."""
        if _read_on_import(environment) != _read_on_import(self._environment):
            return None
        if self._process.poll() is not None:
            self._replace()
            return None
        reading, writing = os.pipe()
        try:
            pid = self._ask({"command": command, "environment": dict(environment)}, reading, log)
            return _adopted(command, pid, writing)
        except BaseException as error:  # by SIGTERM too: a plane that was forked meanwhile ends with its stdin
            with suppress(OSError):
                os.close(writing)
            if not isinstance(error, OSError):
                raise
            self._give_up(error)
            return None
        finally:
            os.close(reading)

    def _start(self) -> None:
        self._is_ready = False
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(theirs.fileno()), _PADDING],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def _ask(self, request: Mapping[str, object], stdin: int, log: int) -> int:
        """The process id. Raises OSError."""
        if not self._is_ready:
            self._connection.settimeout(_IMPORTED_WITHIN_S)
            if self._connection.recv(len(READY)) != READY:
                raise ConnectionResetError("the fork server ends")
            self._is_ready = True
        self._connection.settimeout(_FORKED_WITHIN_S)
        with _adopting():
            socket.send_fds(self._connection, [json.dumps(request).encode()], [stdin, log])
            answer = self._connection.recv(32)
        if not int(answer or 0):
            raise ChildProcessError("the fork server has ended, could not fork, or has imported what is out of date")
        return int(answer)

    def _give_up(self, error: OSError) -> None:
        """One that has hung up may be about to end by itself, and shall not seem to have been killed."""
        if isinstance(error, ConnectionError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDED_WITHIN_S)
        self._process.kill()
        self._replace()

    def _replace(self) -> None:
        was_killed = self._process.wait() < 0
        if was_killed:
            self._connection.close()
            self._start()

    def _end(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()


@contextmanager
def _adopting() -> Generator[None]:
    """Orphans below this process become its children. Only for as long as a fork takes: it reaps no others."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no orphan can be adopted")
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _adopted(command: list[str], pid: int, stdin: int) -> ForkedProcess:
    try:
        return ForkedProcess(command, pid, stdin)
    except ChildProcessError:
        os.kill(pid, signal.SIGKILL)
        raise


def _read_on_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("HEADWAY_")}
