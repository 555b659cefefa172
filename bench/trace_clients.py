"""The clients of `bench.traces`, in a process of their own. Orders come as JSON on the command line; what was seen goes
out as JSON: milliseconds of pages, or how long so many uploads took."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
import uuid
from collections import Counter
from typing import Any

import httpx

from bench.trace_corpus import make_rollout

_UPLOADS_AT_ONCE = 8
"""As the SDK."""


async def pages(http: httpx.AsyncClient, orders: dict[str, Any]) -> dict[str, Any]:
    """Each path several times, in rounds, so that a slow minute of the machine hits all of them."""
    seen: dict[str, list[float]] = {path: [] for path in orders["paths"]}
    rows = dict[str, int]()
    for _ in range(orders["rounds"]):
        for path in orders["paths"]:
            started = time.perf_counter()
            reply = (await http.get(path)).raise_for_status()
            seen[path].append((time.perf_counter() - started) * 1e3)
            rows[path] = len(reply.json()["items"])
    return {"ms": seen, "rows": rows}


async def uploads(http: httpx.AsyncClient, orders: dict[str, Any]) -> dict[str, Any]:
    """Rollouts, each one upload and one exit, several at once. `templates`: so many differ in more than their ids."""
    rng, count = random.Random(orders["seed"]), orders["count"]
    made = [make_rollout(rng, scale=orders.get("scale", 1)) for _ in range(min(count, orders.get("templates", count)))]
    bodies = [rollout.upload() for rollout in made]
    tokens = [sum(len(turn.prompt_ids) + len(turn.output_ids) for turn in rollout.turns) for rollout in made]
    todo, sent = list(range(count)), Counter[str]()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)

    async def send() -> None:
        while todo:
            index, trace = todo.pop() % len(made), uuid.uuid4().hex
            body = bodies[index].replace(made[index].trace_id.hex.encode(), trace.encode())
            began = time.perf_counter()
            (await http.post(f"/trace/{trace}/telemetry-upload", content=body)).raise_for_status()
            waited.append((time.perf_counter() - began) * 1e3)
            (await http.post(f"/v2/trace/{trace}/exit", json=left)).raise_for_status()
            sent.update(bytes=len(body), tokens_as_sent=tokens[index])

    left, waited = {"status": "completed", "reward": 1.0}, list[float]()
    started = time.perf_counter()
    await asyncio.gather(*(send() for _ in range(_UPLOADS_AT_ONCE)))
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "traces": count, "upload_ms_p50": round(statistics.median(waited)), **sent}


async def main() -> None:
    orders = json.loads(sys.argv[1])
    headers = {"Authorization": f"Bearer {orders['key']}"}
    async with httpx.AsyncClient(base_url=orders["url"], headers=headers, timeout=120, trust_env=False) as http:
        print(json.dumps(await {"pages": pages, "uploads": uploads}[orders["kind"]](http, orders)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
