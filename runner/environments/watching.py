"""What a session takes, looked at every second, where the kernel does not bound it."""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runner.environments.isolation.base import Limits
from runner.environments.sessions import LocalSession

_EVERY_S = 1.0
_PSS = re.compile(r"^Pss_Anon:\s+(\d+) kB|^Pss_Shmem:\s+(\d+) kB", re.MULTILINE)
_ANON = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes of a session, or of a folder."""

    memory_bytes: int = 0
    processes: int = 0


async def watch(session: LocalSession, limits: Limits, scratch: str, is_in_cgroup: bool) -> None:
    """Kills it when it takes too much; until it is cancelled. `scratch`: the folder that it writes to, if it has no
    file system of its own."""
    while True:
        await asyncio.sleep(_EVERY_S)
        pid = session.pid
        if pid is None:
            continue
        if not is_in_cgroup:
            usage = await asyncio.to_thread(usage_of, pid)
            if usage.memory_bytes > limits.memory_bytes + limits.disk_bytes:
                session.kill(f"it took more than {limits.memory_bytes >> 20} MiB of memory")
            elif usage.processes > limits.processes + 8:
                session.kill(f"it had more than {limits.processes} processes")
        if scratch and await asyncio.to_thread(size_of, scratch) > limits.disk_bytes:
            session.kill(f"it wrote more than {limits.disk_bytes >> 20} MiB")


def usage_of(pid: int) -> Usage:
    """Of it and its descendants. Memory that is shared with others counts in part, where that can be seen."""
    memory = number = 0
    pending = [pid]
    while pending:
        at = pending.pop()
        with suppress(OSError, ValueError):
            tasks = os.listdir(f"/proc/{at}/task")
            number += len(tasks)
            memory += _memory_of(at)
            for task in tasks:
                pending += map(int, Path(f"/proc/{at}/task/{task}/children").read_text().split())
    return Usage(memory, number)


def size_of(folder: str) -> int:
    """Of its files, on disk."""
    total = 0
    for at, _, files in os.walk(folder, onerror=None):
        for file in files:
            with suppress(OSError):
                total += os.lstat(f"{at}/{file}").st_blocks * 512
    return total


def _memory_of(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return sum(int(anon or shmem) for anon, shmem in _PSS.findall(text)) << 10
    except PermissionError:
        found = _ANON.search(Path(f"/proc/{pid}/status").read_text())
        return int(found.group(1)) << 10 if found else 0
