"""Limits of a process and of what it forks, by setrlimit."""

from __future__ import annotations

import resource

from runner.environments.isolation.base import Limits


def set_limits(limits: Limits, num_others: int) -> None:
    """`num_others`: processes and threads of the same user, in the same user namespace, that are not the session's:
    the kernel counts all of a user together, and lets root fork without end. Memory is RLIMIT_DATA, of one process:
    reserved addresses, of which libraries take gigabytes, do not count."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_DATA, limits.memory_bytes)
    _lower(resource.RLIMIT_FSIZE, limits.disk_bytes)
    _lower(resource.RLIMIT_NOFILE, limits.open_files)
    _lower(resource.RLIMIT_CPU, limits.cpu_s)
    _lower(resource.RLIMIT_MEMLOCK, 64 << 10)
    _lower(resource.RLIMIT_MSGQUEUE, 0)
    _lower(resource.RLIMIT_NPROC, limits.processes + num_others)


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))
