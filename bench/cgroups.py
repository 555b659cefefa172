"""Holding processes to a share of a core, so that several on a small machine do not fight over it: as if each had a
machine of its own, of that size. Root only; cgroup v2 where it has the cpu controller, else v1.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_PERIOD_US = 20_000
"""Short, that a process which has used its share waits 20 ms and not 100."""
_V2, _V1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu")


class CannotConfine(OSError):
    """No cgroups can be made here."""


@contextmanager
def confined(pids: Sequence[int], cores: float) -> Generator[None]:
    """Each process, with all its threads, has so much of a core until the block ends. Raises CannotConfine."""
    with ExitStack() as stack:
        for pid in pids:
            stack.enter_context(_group(pid, cores))
        yield


@contextmanager
def _group(pid: int, cores: float) -> Generator[None]:
    is_v2 = (_V2 / "cgroup.controllers").exists()
    parent = _V2 if is_v2 else _V1
    folder = parent / f"headway-bench-{os.getpid()}-{pid}"
    quota_us = int(cores * _PERIOD_US)
    try:
        if is_v2 and "cpu" not in (_V2 / "cgroup.subtree_control").read_text().split():
            (_V2 / "cgroup.subtree_control").write_text("+cpu")
        folder.mkdir()
        if is_v2:
            (folder / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
        (folder / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        raise CannotConfine(f"no cgroup for a share of a core can be made in {parent}: {error.strerror}") from error
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            (parent / "cgroup.procs").write_text(str(pid))
        folder.rmdir()
