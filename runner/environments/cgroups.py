"""Control groups of sessions: memory, processes and share of the CPU of all of its processes together, where the runner
may make groups: as root under cgroup v1, or in a cgroup v2 that was delegated to it."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runner.environments.isolation.base import Limits

_ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("memory", "pids", "cpu")
_NUMBERS = itertools.count()
_PERIOD_US = 100_000
_OURS = 8
"""Processes of a session that are not the environment's."""


@dataclass(frozen=True, slots=True)
class Cgroup:
    """Of one session: a folder for each controller, or one for all."""

    folders: tuple[Path, ...]

    def add(self, pid: int) -> None:
        """It, and whatever it forks from now on. Raises OSError."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed a process of it for want of memory."""
        for folder in self.folders:
            for name in ("memory.oom_control", "memory.events"):
                with suppress(OSError):
                    for line in (folder / name).read_text().splitlines():
                        key, _, value = line.partition(" ")
                        if key == "oom_kill" and int(value):
                            return True
        return False

    def remove(self) -> None:
        """When no process is left in it; those that are just ending are waited for."""
        for folder in self.folders:
            for _ in range(20):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)


class Cgroups:
    """Makes groups below one of the runner's own. `parents`: that, for each controller."""

    def __init__(self, parents: Mapping[str, Path], is_v2: bool) -> None:
        self._parents, self._is_v2 = dict(parents), is_v2

    def make(self, name: str, limits: Limits) -> Cgroup:
        """Files in memory count as memory: what a session may write is added to what it may have. Raises OSError."""
        memory = limits.memory_bytes + limits.disk_bytes
        processes, cpus = limits.processes + _OURS, limits.cpus
        if self._is_v2:
            values = {"memory.max": f"{memory}", "memory.swap.max": "0", "pids.max": f"{processes}", "cpu.weight": "50"}
            values |= {} if cpus is None else {"cpu.max": f"{_quota(cpus)} {_PERIOD_US}"}
        else:
            values = {"memory.limit_in_bytes": f"{memory}", "pids.max": f"{processes}", "cpu.shares": "512"}
            values |= {} if cpus is None else {"cpu.cfs_quota_us": f"{_quota(cpus)}"}
        folders = tuple(dict.fromkeys(parent / name for parent in self._parents.values()))
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            for file, value in values.items():
                if (folder / file).exists():
                    with suppress(PermissionError):
                        (folder / file).write_text(value)
        return Cgroup(folders)

    def close(self) -> None:
        """Removes what is empty."""
        for parent in set(self._parents.values()):
            with suppress(OSError):
                for folder in parent.iterdir():
                    if folder.is_dir():
                        with suppress(OSError):
                            folder.rmdir()
                parent.rmdir()


def _own_name() -> str:
    return f"headway-{os.getpid()}-{next(_NUMBERS)}"


def _quota(cpus: float) -> int:
    return max(1000, int(cpus * _PERIOD_US))


def find_cgroups() -> Cgroups | None:
    """None where the runner may make none."""
    try:
        return _v2() if (_ROOT / "cgroup.controllers").exists() else _v1()
    except OSError:
        return None


def _own_paths() -> dict[str, str]:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    paths = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    return paths


def _v1() -> Cgroups:
    own = _own_paths()
    parents = {}
    for controller in _CONTROLLERS:
        if controller in own:
            base = _ROOT / controller / own[controller].lstrip("/")
            if not base.exists():  # in a container its own path is the root of what is mounted
                base = _ROOT / controller
            parents[controller] = base / _own_name()
    if not {"memory", "pids"} <= set(parents):
        raise FileNotFoundError("no controllers of memory and processes")
    for parent in parents.values():
        _remove_stale(parent.parent)
        parent.mkdir(exist_ok=True)
    return Cgroups(parents, is_v2=False)


def _remove_stale(base: Path) -> None:
    """Groups of runners that were killed."""
    for parent in base.glob("headway-*"):
        if not Path("/proc", parent.name.split("-")[1]).exists():
            Cgroups({"all": parent}, is_v2=False).close()


def _v2() -> Cgroups:
    base = _ROOT / _own_paths().get("", "/").lstrip("/")
    (base / "cgroup.subtree_control").write_text("+memory +pids")
    with suppress(OSError):
        (base / "cgroup.subtree_control").write_text("+cpu")
    _remove_stale(base)
    parent = base / _own_name()
    parent.mkdir(exist_ok=True)
    (parent / "cgroup.subtree_control").write_text("+memory +pids")
    with suppress(OSError):
        (parent / "cgroup.subtree_control").write_text("+cpu")
    return Cgroups({"all": parent}, is_v2=True)
