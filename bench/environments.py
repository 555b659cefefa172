"""Many real environment processes at once: how soon they answer, and what they take of memory.

    python -m bench.environments [--sessions 64] [--plain 8]

`sessions` are those of a runner (`runner.environments`): isolated, forked from a process of their version that has
imported the SDK. `plain` is the same environment as the SDK starts it, `python -m hud.environment.server`, a process
each. Both are started at once, and counted when they answer `hello`. Memory is proportional (PSS): what processes
share is divided among them.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import os
import statistics
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.figures import write_figures
from bench.gateway import parents
from runner.environments.opening import open_environments
from runner.environments.settings import EnvironmentSettings, Gateway
from wire.placements import EnvironmentSpec

_SOURCE = Path(__file__).with_name("sleeping.py")
_HELLO = b'{"jsonrpc":"2.0","id":1,"method":"hello","params":{}}\n'


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--plain", type=int, default=8)
    parser.add_argument("--isolation", default="auto")
    parser.add_argument("--machine", default="", help="a word on the machine, for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headway-bench-") as name:
        folder, archive = Path(name), Path(name) / "sleeping.tar.gz"
        folder.chmod(0o711)  # sandboxes have users of their own
        archive.write_bytes(_packed())
        figures = asyncio.run(_measured(folder, archive, options))
    write_figures("environments", {"machine": options.machine, **figures})


async def _measured(folder: Path, archive: Path, options: argparse.Namespace) -> dict[str, Any]:
    spec = EnvironmentSpec(
        build_id=uuid.uuid4(),
        name="sleeping",
        declared_name="sleeping",
        version=1,
        source="folder",
        archive_digest=await asyncio.to_thread(_digest, archive),
    )
    gateway = Gateway("http://127.0.0.1:9", lambda team: None)
    settings = EnvironmentSettings(isolation=options.isolation)
    environments = await open_environments(folder / "environments", settings, gateway)
    try:
        began = time.monotonic()
        await environments.build(spec, archive, lambda line: None, 600)
        built_s = time.monotonic() - began

        async def start() -> str:
            session = await environments.start(spec, archive, uuid.uuid4().hex, "bench", lambda line: None)
            return session.address

        first = await _at_once(1, start)
        sessions = await _at_once(options.sessions, start)
        sessions["pss_mib_each"] = round(_pss_mib(_descendants(os.getpid())) / (options.sessions + 1), 1)
    finally:
        await environments.close()
    plain = await _plain(options.plain)
    return {
        "isolation": environments.isolation,
        "build_s": round(built_s, 1),
        "first": first,
        "sessions": sessions,
        "plain": plain,
        "memory_ratio": round(plain["pss_mib_each"] / max(sessions["pss_mib_each"], 0.1), 1),
    }


async def _plain(count: int) -> dict[str, Any]:
    processes = list[asyncio.subprocess.Process]()

    async def start() -> str:
        command = [sys.executable, "-m", "hud.environment.server", str(_SOURCE), "--env", "sleeping"]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        processes.append(process)
        assert process.stdout is not None
        line = await process.stdout.readline()
        return f"tcp://127.0.0.1:{int(line.decode().partition('=')[2])}"

    try:
        started = await _at_once(count, start)
        started["pss_mib_each"] = round(_pss_mib([process.pid for process in processes]) / count, 1)
        return started
    finally:
        for process in processes:
            process.kill()
            await process.wait()


async def _at_once(count: int, start: Callable[[], Awaitable[str]]) -> dict[str, Any]:
    """Seconds until each answers, from the moment at which all are asked for."""
    began = time.monotonic()

    async def answers() -> float:
        host, port = (await start()).removeprefix("tcp://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(_HELLO)
        assert b'"result"' in await reader.readline()
        writer.close()
        return time.monotonic() - began

    seconds = await asyncio.gather(*(answers() for _ in range(count)))
    return {"count": count, "median_s": round(statistics.median(seconds), 2), "last_s": round(max(seconds), 2)}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _packed() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(_SOURCE, "env.py")
    return packed.getvalue()


def _descendants(pid: int) -> Sequence[int]:
    of, found, left = parents(), list[int](), [pid]
    while left:
        current = left.pop()
        children = [child for child, parent in of.items() if parent == current]
        found += children
        left += children
    return found


def _pss_mib(pids: Iterable[int]) -> float:
    kib = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        kib += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return kib / 1024


if __name__ == "__main__":
    main()
