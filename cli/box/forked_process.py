"""A child process that somebody else forked and this process adopted, used like a `subprocess.Popen`."""

from __future__ import annotations

import os
import signal
import subprocess
import time

_POLL_S = 0.02


class ForkedProcess:
    """Its `stdin` closes with this process or this object, whichever ends first. `returncode`: None while it runs, and
    minus the signal that ended it, as Popen's."""

    def __init__(self, command: list[str], pid: int, stdin: int) -> None:
        """stdin: the write end of the pipe that the process reads. Raises ChildProcessError if it is no child; then
        the pipe is still the caller's."""
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        self.args, self.pid = command, pid
        self.stdin = os.fdopen(stdin, "wb", buffering=0)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, if it has ended."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status. Raises subprocess.TimeoutExpired."""
        started = time.monotonic()
        while (status := self.poll()) is None:
            if timeout is not None and time.monotonic() - started > timeout:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(_POLL_S)
        return status

    def send_signal(self, signum: int) -> None:
        """Nothing, if it has ended: its process id may be another's."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)
