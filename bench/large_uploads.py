"""Uploads of 4 MiB while completions go through the gateway: what they do to the event loop, and to the completions.

Both go to the same server. Completions come at a rate that is far from what the gateway can do, before the uploads and
during them, from a client of their own (`bench.gateway_load`) and a sampler that computes nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from bench.clock import say
from bench.gateway import MODEL, child, furnish
from bench.trace_place import Place, client_process, lags

SCALE, TEMPLATES = 61, 4
"""Of `make_rollout`: 4.2 MB, and so many that differ."""
COMPLETIONS_PER_S = 20.0
_TRIAL = 8
_QUIET_S, _LEAST_S, _WARM_UP_S = 15.0, 5.0, 2.0


async def measure_large_uploads(place: Place, count: int) -> dict[str, Any]:
    """Rates, how late the event loop was, and the milliseconds that completions took beyond the sampler's."""
    url = str(place.database.url.set(drivername="postgresql").render_as_string(hide_password=False))
    with child(["-m", "bench.stand_in_sampler"]) as port, _beating(url):
        key = await furnish(url, [f"http://127.0.0.1:{int(port)}"])
        async with _completing(place, key, _QUIET_S) as completing:
            quiet_lags, quiet = await lags(completing), completing.result()
        say(f"  no uploads: {quiet_lags}, completions {quiet}")
        async with _uploading(place, _TRIAL) as uploading:
            seconds = count * (await uploading)["seconds"] / _TRIAL
        say(f"  {count} uploads will take about {seconds:.0f} s")
        lasting = max(_LEAST_S, 0.8 * seconds - _WARM_UP_S)
        async with _completing(place, key, lasting) as completing, _uploading(place, count) as uploading:
            busy_lags, seen, busy = await lags(uploading), uploading.result(), await completing
    return {
        "uploads": count,
        "mb_each": round(seen["bytes"] / count / 1e6, 2),
        "uploads_per_s": round(count / seen["seconds"], 2),
        "mb_per_s": round(seen["bytes"] / seen["seconds"] / 1e6, 1),
        "tokens_as_sent_per_s": round(seen["tokens_as_sent"] / seen["seconds"]),
        "upload_ms_p50": seen["upload_ms_p50"],
        "event_loop_lag_ms": busy_lags,
        "event_loop_lag_ms_before": quiet_lags,
        "completions": busy,
        "completions_before": quiet,
        "reader_peak_mb": _peak_mb(place.context.upload_parser.pid),
        "server_peak_mb": _peak_mb(os.getpid()),
    }


@asynccontextmanager
async def _completing(place: Place, key: str, seconds: float) -> AsyncGenerator[asyncio.Task[dict[str, Any]]]:
    """What completions saw, when they have come for so long. They begin with the block: starting a process forks this
    one, which stops its event loop."""
    orders = {"url": place.url, "key": key, "model": MODEL, "kind": "recorded", "per_second": COMPLETIONS_PER_S}
    told = json.dumps({**orders, "seconds": seconds, "warm_up_s": _WARM_UP_S})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.gateway_load", told, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()

    async def seen() -> dict[str, Any]:
        output, _ = await process.communicate()
        assert process.returncode == 0
        return {name: json.loads(output)[name] for name in ("requests", "errors", "first_errors", "added_ms")}

    yield asyncio.create_task(seen())


@asynccontextmanager
async def _uploading(place: Place, count: int) -> AsyncGenerator[asyncio.Task[dict[str, Any]]]:
    """What the client of so many uploads saw, when they are done. They begin with the block."""
    orders = {"count": count, "scale": SCALE, "templates": TEMPLATES, "seed": random.random()}
    async with client_process(place, kind="uploads", **orders) as sender:
        await sender.stdout.readline()
        sender.stdin.write(b"\n")

        async def seen() -> dict[str, Any]:
            return json.loads(await sender.stdout.readline())

        yield asyncio.create_task(seen())


@contextmanager
def _beating(database_url: str) -> Generator[None]:
    """Heartbeats of the stand-in sampler."""
    heart = subprocess.Popen([sys.executable, "-m", "bench.gateway", "--heart", database_url], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        heart.kill()
        heart.wait()


def _peak_mb(pid: int | None) -> float | None:
    if pid is None:
        return None
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return round(int(peak) / 1024, 1)
