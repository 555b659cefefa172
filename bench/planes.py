"""The processes of a `headway up` by plane, and what each has used: processor time, and memory as PSS.

A process belongs to the nearest plane above it, so a plane's helpers count as the plane's; the embedded PostgreSQL is
one of them, and so is what trainers and samplers are forked from. PSS counts a page that several processes share by
parts, so a sum over processes is what they take of the machine: less beside other processes with the same libraries.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

PLANES = ("server", "trainer", "sampler", "runner")
_TICKS = os.sysconf("SC_CLK_TCK")


def processes_by_plane(up: int) -> Iterator[tuple[str, int]]:
    """(plane, process id) of all processes below the `headway up` of that process id; itself is `up`."""
    children = _children()
    found = [(up, "up")]
    for pid, plane in found:  # grows as it goes
        found += [(child, _plane_of(child) or plane) for child in children.get(pid, [])]
    yield from ((plane, pid) for pid, plane in found)


def cpu_seconds(pid: int) -> float:
    """Processor time of the process and of the children that it waited for; 0 where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS


def pss_mib(pid: int) -> float:
    """Its proportional share of memory; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def command_of(pid: int) -> str:
    """Its command line; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def _plane_of(pid: int) -> str | None:
    command = command_of(pid)
    if "/bin/postgres " in command:
        return "postgres"
    if "cli.box.forking" in command:
        return "fork_server"
    return next((plane for plane in PLANES if f"cli {plane} " in f"{command} "), None)


def _children() -> dict[int, list[int]]:
    found = dict[int, list[int]]()
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and (parent := _parent(entry)) is not None:
            found.setdefault(parent, []).append(int(entry))
    return found


def _parent(pid: str) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None
