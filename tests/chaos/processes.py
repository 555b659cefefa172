"""Real processes on this machine, each of which can be killed, frozen and started again by itself."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class Zygote:
    """Forks planes that have imported everything already; see `tests.chaos.zygote`. It is a fork itself, of one that
    this process starts once: the imports take ten seconds."""

    def __init__(self, log: Path) -> None:
        self._lock = threading.Lock()
        self._log = log
        requests, answers = (log.with_name(f"{log.name}-{way}") for way in ("requests", "answers"))
        for pipe in (requests, answers):
            os.mkfifo(pipe)
        environment = os.environ | _ENVIRONMENT | {"TMPDIR": str(log.parent)}
        self._pid = _imported().fork(
            requests=str(requests), answers=str(answers), log=str(log), environment=environment
        )
        self._requests, self._answers = requests.open("w"), answers.open()

    def fork(self, **request: Any) -> int:
        """The pid of a new process."""
        with self._lock:
            return _asked(request, self._requests, self._answers, self._log)["pid"]

    def close(self) -> None:
        """End it and everything that it forked."""
        self._requests.close()
        while is_alive(self._pid):
            time.sleep(0.01)
        self._answers.close()


class _Imported:
    """The process that others are forked from. It ends with this one."""

    def __init__(self) -> None:
        self._log = Path(tempfile.mkstemp(prefix="headway-zygote-")[1])
        with self._log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.zygote"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                start_new_session=True,
                env=os.environ | _ENVIRONMENT,
            )
        atexit.register(self._log.unlink, missing_ok=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._lock = threading.Lock()

    def fork(self, **request: Any) -> int:
        with self._lock:
            return _asked(request, self._requests, self._answers, self._log)["pid"]


@cache
def _imported() -> _Imported:
    return _Imported()


def _asked(request: Mapping[str, Any], requests: IO[str], answers: IO[str], log: Path) -> dict[str, int]:
    requests.write(json.dumps(request) + "\n")
    requests.flush()
    line = answers.readline()
    assert line, f"the zygote has died: {log.read_text()[-3000:]}"
    return json.loads(line)


def is_alive(pid: int) -> bool:
    return state_of(pid) not in (None, "Z")


def is_frozen(pid: int) -> bool:
    return state_of(pid) == "T"


def state_of(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def send(pid: int, signum: signal.Signals) -> None:
    """A signal, to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)
