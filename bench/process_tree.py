"""Processor time and memory of all processes that were started with the same mark in their environment.

A mark is inherited by whoever is started, by services that move to a session of their own and outlive their parent
(PostgreSQL, Ray), too; parents alone would miss those.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

MARK = "HEADWAY_BENCH_MARK"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def marked(value: str) -> list[int]:
    """Ids of the living processes that were started with `MARK=value`."""
    needle = f"{MARK}={value}".encode()
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal() and needle in _environment(entry)]


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time so far, of children that have ended and been waited for, too."""
    return sum(sum(map(int, _stat(pid)[11:15])) for pid in pids) / _TICKS_PER_S


def pss_mib(pids: Iterable[int]) -> float:
    """Proportional set size: a page that n processes map counts as a page / n in each."""
    return sum(_pss_kib(pid) for pid in pids) / 1024


def end(value: str, grace_s: float = 10.0) -> None:
    """SIGTERM to the marked processes, SIGKILL to those that are left after `grace_s`."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        for pid in marked(value):
            _signal(pid, number)
        deadline = time.monotonic() + wait_s
        while marked(value) and time.monotonic() < deadline:
            time.sleep(0.1)


def _environment(pid: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # it has ended, or is another user's


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command's name: state first; 11 to 14 are the four times in ticks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _pss_kib(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.kill(pid, number)
