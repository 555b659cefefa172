"""Ranks that torch's elastic agent need not start as programs: they were forked before, with everything imported.

The agent is the product's own, and what it says to a rank by its environment, and by signals, is said to these.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

from wire.process.lifeline import end_with_parent


def fork_ranks(num_ranks: int, become: Callable[[], None]) -> None:
    """Have the agent of this process, which is to have no threads yet, find these ranks where it starts its own.
    `become`: what a rank runs, once it has its environment."""
    waiting = [_fork(become) for _ in range(num_ranks)]

    def start(_handler: object, _command: object, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        pid, environments = waiting[int(environment["LOCAL_RANK"])]
        os.write(environments, json.dumps(dict(environment)).encode() + b"\n")
        os.close(environments)
        return _Forked(pid)

    SubprocessHandler._popen = start  # type: ignore[method-assign,assignment]


def _fork(become: Callable[[], None]) -> tuple[int, int]:
    """The pid, and where it reads its environment."""
    reads, writes = os.pipe()
    agent = os.getpid()
    if pid := os.fork():
        os.close(reads)
        return pid, writes
    os.setsid()
    end_with_parent(agent, signal.SIGKILL)
    status = 1
    try:
        with os.fdopen(reads) as lines:
            environment = json.loads(lines.readline())
        os.environ.clear()
        os.environ.update(environment)
        become()
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class _Forked(subprocess.Popen[bytes]):
    """A child that Popen has not started, and can wait for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.args: Any = ()
        self.returncode: Any = None
        self.stdin = self.stdout = self.stderr = None
        self._child_created = True
        self._waitpid_lock = threading.Lock()
