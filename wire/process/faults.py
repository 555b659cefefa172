"""Points at which a test may kill, stop or delay a process. Elsewhere a point costs a comparison.

`HEADWAY_FAULTS=step:before-commit:2:kill` kills the process when it is about to commit a step for the second time;
`HEADWAY_FAULTS=@FILE` reads that from a file again at each point, so that it can be set in a running process, and
renames the file to `FILE.fired` when its time has come. `HEADWAY_FAULTS_SEEN=FILE` has each point that is reached
written there, one a line. Of the ranks of a group, `POINT@RANK:2:kill` is for one alone; a process that computes alone
is rank 0.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PLAN, SEEN = "HEADWAY_FAULTS", "HEADWAY_FAULTS_SEEN"

POINTS = frozenset(
    {
        # Operations are appended and answered (server).
        "append:before-commit",
        "append:after-commit",
        "number:before-commit",
        "number:after-commit",
        "reply:before-take",
        "reply:after-take",
        "reply:before-note",
        "head:before-commit",
        "head:after-commit",
        # Blobs (server, trainer).
        "blob:before-write",
        "blob:before-look",
        "blob:after-look",
        "blob:before-fsync",
        "blob:before-rename",
        "blob:before-folder-fsync",
        "blob:after-folder-fsync",
        # Operations are taken and finished (trainer).
        "lease:before-take",
        "lease:after-take",
        "lease:before-renew",
        "lease:after-renew",
        "take:before-commit",
        "take:after-commit",
        "replay:before-pass",
        "replay:after-pass",
        "recompute:before-step",
        "complete:before-commit",
        "complete:after-commit",
        "fail:before-commit",
        "fail:after-commit",
        "defer:before-commit",
        "defer:after-commit",
        # A step (trainer).
        "step:before-adamw",
        "step:after-adamw",
        "step:after-save",
        "publish:before-manifest",
        "publish:before-rename",
        "publish:after-rename",
        "stage:before-commit",
        "stage:after-commit",
        "settle:before-fsync",
        "settle:before-folder-fsync",
        "settle:after-folder-fsync",
        "step:before-commit",
        "step:after-commit",
        "node:before-commit",
        "node:after-commit",
        "root:before-commit",
        "root:after-commit",
        "saved:before-commit",
        "saved:after-commit",
        # Calls of an engine, and what each rank does for them (trainer).
        "call:before-send",
        "call:after-receive",
        "call:before-conclude",
        "call:after-conclude",
        "open:after-read",
        "open:after-copy",
        "forward:before-pass",
        "forward:before-vote",
        "forward:after-vote",
        "backward:before-pass",
        "backward:before-vote",
        "backward:after-vote",
        "gather:before-issue",
        "gather:after-issue",
        "gather:after-wait",
        "sum:before-exchange",
        "sum:before-collect",
        "sum:after-collect",
        "adamw:before-step",
        "adamw:after-step",
        "canary:before-pass",
        "canary:after-pass",
        # Adapters (sampler).
        "load:before-fetch",
        "load:before-load",
        "load:after-load",
        "report:before-commit",
        "report:after-commit",
    }
)
"""Every point there is: `process step`, `:`, what is about to happen or has just happened."""

_SLEEP_S = 1.0
_ACTIONS = ("kill", "stop", "sleep")
_SPEC = re.compile(rf"(?P<point>[a-z:-]+)(@(?P<rank>\d+))?:(?P<nth>[1-9]\d*):(?P<action>{'|'.join(_ACTIONS)})")


def fault_point(name: str) -> None:
    """The process is here. Does nothing unless a test armed it."""
    if _armed is not None:
        _armed.reached(name)


def arm_faults(environment: Mapping[str, str] = os.environ) -> None:
    """Obey the environment from now on. Raises ValueError for a point or an action that does not exist."""
    global _armed
    plan, seen = environment.get(PLAN), environment.get(SEEN)
    if plan or seen:
        _armed = _Armed(_source(plan), Path(seen) if seen else None, int(environment.get("RANK", "0")))


@dataclass(frozen=True, slots=True)
class Fault:
    """What shall happen, where, and on the how-many-th time. rank: that of the process, None for any."""

    point: str
    nth: int
    action: str
    rank: int | None = None

    @classmethod
    def parse(cls, spec: str) -> Fault:
        """From `point:nth:action` or `point@rank:nth:action`. Raises ValueError."""
        if not (found := _SPEC.fullmatch(spec.strip())) or found["point"] not in POINTS:
            raise ValueError(
                f"a fault is POINT:NTH:ACTION or POINT@RANK:NTH:ACTION with a known point, and one of {_ACTIONS}; "
                f"not {spec!r}"
            )
        rank = None if found["rank"] is None else int(found["rank"])
        return cls(found["point"], int(found["nth"]), found["action"], rank)

    def __str__(self) -> str:
        where = self.point if self.rank is None else f"{self.point}@{self.rank}"
        return f"{where}:{self.nth}:{self.action}"


class _Plan(Protocol):
    def read(self) -> str | None: ...

    def claim(self) -> bool: ...


class _Fixed:
    """A plan given in the environment."""

    def __init__(self, spec: str) -> None:
        self._spec: str | None = str(Fault.parse(spec))

    def read(self) -> str | None:
        return self._spec

    def claim(self) -> bool:
        self._spec = None
        return True


class _File:
    """A plan that may appear, change and vanish while the process runs."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str | None:
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return None

    def claim(self) -> bool:
        """Whether it is this process, of all that read the file, that has to obey."""
        try:
            self._path.rename(f"{self._path}.fired")
        except FileNotFoundError:
            return False
        return True


def _source(plan: str | None) -> _Plan | None:
    if not plan:
        return None
    return _File(Path(plan[1:])) if plan.startswith("@") else _Fixed(plan)


class _Armed:
    def __init__(self, plan: _Plan | None, seen: Path | None, rank: int) -> None:
        self._plan = plan
        self._seen = seen
        self._rank = rank
        self._lock = threading.Lock()
        self._counted: str | None = None
        self._count = 0

    def reached(self, name: str) -> None:
        if name not in POINTS:
            raise ValueError(f"{name!r} is not in wire.process.faults.POINTS")
        with self._lock:
            self._announce(name)
            fault = self._due(name)
        if fault is not None:
            _act(fault.action)

    def _announce(self, name: str) -> None:
        if self._seen is not None:
            with self._seen.open("a") as file:
                file.write(f"{name}\n")

    def _due(self, name: str) -> Fault | None:
        spec = self._plan.read() if self._plan else None
        if self._plan is None or not spec:
            return None
        if spec != self._counted:
            self._counted, self._count = spec, 0
        fault = Fault.parse(spec)
        if fault.point != name or fault.rank not in (None, self._rank):
            return None
        self._count += 1
        return fault if self._count == fault.nth and self._plan.claim() else None


def _act(action: str) -> None:
    if action == "sleep":
        time.sleep(_SLEEP_S)
    else:
        os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)


_armed: _Armed | None = None
