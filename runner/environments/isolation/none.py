"""No isolation: processes of the runner's own user, in a session of their own, with limits. What is deployed can do
whatever the runner can."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

from runner.environments.isolation import kernel
from runner.environments.isolation.base import Sandbox, SessionPlace
from runner.environments.isolation.rlimits import set_limits

_END_S = 5.0


class Unconfined:
    """`Isolation` that there is none of."""

    name = "none"
    has_own_root = False
    has_own_network = False
    has_own_processes = False

    def takes_user_ids(self) -> bool:
        return False

    def trouble(self) -> str | None:
        return None

    def enter(self, sandbox: Sandbox) -> None:
        os.umask(0o022)
        kernel.adopt_orphans()

    def enter_session(self, place: SessionPlace) -> None:
        os.setsid()
        kernel.adopt_orphans()
        for name in ("home", "tmp"):
            os.mkdir(f"{place.scratch}/{name}")
        if place.copies_source:
            shutil.copytree(place.source, f"{place.scratch}/source", symlinks=True)

    def end_session(self) -> None:
        """Until no descendant is left: those whose parent ends become children of this process."""
        until = time.monotonic() + _END_S
        while left := descendants(os.getpid()):
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if time.monotonic() > until:
                return
            time.sleep(0.005)

    def confine(self, place: SessionPlace, ports: list[int]) -> None:
        kernel.gain_no_privileges()
        set_limits(place.limits, num_others=tasks_of_user())

    def confine_build(self, sandbox: Sandbox, ports: list[int]) -> None:
        kernel.gain_no_privileges()
        set_limits(sandbox.limits, num_others=tasks_of_user())


def descendants(pid: int) -> list[int]:
    """All that it forked, and they."""
    found: list[int] = []
    with suppress(OSError, ValueError):
        for task in os.listdir(f"/proc/{pid}/task"):
            children = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
            found += [int(child) for child in children]
    return found + [each for child in found for each in descendants(child)]


def tasks_of_user() -> int:
    """Processes and threads of this process's user, as far as they can be seen."""
    number, user = 0, os.getuid()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == user:
                    number += len(os.listdir(f"/proc/{name}/task"))
    return number
