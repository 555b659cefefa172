"""Many runners that carry nothing out: each registers, shows its heartbeat and asks for work as `runner.worker` does,
and ends at once what it is given.

    python -m bench.fleet_runners SERVER COUNT < KEY

Prints `ready` when all have registered. At each line on stdin it prints, as JSON, what was seen since the last one:
milliseconds that heartbeats took, and errors. Ends when stdin closes. Costs 0.2 ms of processor time a call.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from typing import Any

import uvloop
from pydantic_core import from_json, to_json

from server.sampling.connections import ConnectionFailed, Connections
from wire.placements import HEARTBEAT_S

_LEASE_WAIT_S, _BEATS = (10.0, 25.0), (0.8, 1.2)  # as runner.worker.worker
_SLOTS = 4


class Fleet:
    """All runners of this process, and what they saw."""

    def __init__(self, server: str, key: str) -> None:
        self._server = server
        self._headers = f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n".encode()
        self._connections = Connections(connect_s=30, read_s=120)
        self._beats_ms, self._errors, self._ended = list[float](), Counter[str](), 0

    async def run(self, count: int) -> None:
        """Until stdin closes."""
        ids = [await self._register(number) for number in range(count)]
        tasks = [asyncio.create_task(live(one)) for one in ids for live in (self._beat, self._lease)]
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(self._seen()), flush=True)
        for task in tasks:
            task.cancel()

    def _seen(self) -> dict[str, Any]:
        cuts = statistics.quantiles(self._beats_ms, n=100) if len(self._beats_ms) > 1 else [0.0] * 99
        seen = {
            "heartbeats": len(self._beats_ms),
            "heartbeat_ms": {f"p{p}": round(cuts[p - 1], 1) for p in (50, 99)},
            "ended": self._ended,
            "errors": dict(self._errors),
        }
        self._beats_ms, self._errors, self._ended = [], Counter(), 0
        return seen

    async def _register(self, number: int) -> str:
        body = {
            "host": f"runner-{number}",
            "pid": 1,
            "slots": _SLOTS,
            "isolation": "none",
            "url": "ws://127.0.0.1:1",
            "tunnel_token": "t" * 32,
        }
        return (await self._post("register", body))["runner_id"]

    async def _beat(self, runner: str) -> None:
        await asyncio.sleep(random.random() * HEARTBEAT_S)
        while True:
            began = time.perf_counter()
            await self._try(f"{runner}/heartbeat", {"held": []})
            self._beats_ms.append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(HEARTBEAT_S * random.uniform(*_BEATS))

    async def _lease(self, runner: str) -> None:
        while True:
            asking = {"slots": _SLOTS, "kinds": ["session", "rollout"], "wait_s": random.uniform(*_LEASE_WAIT_S)}
            leased = await self._try(f"{runner}/lease", asking)
            for placement in leased["placements"] if leased else ():
                ended = {"attempt": placement["attempt"], "outcome": "completed"}
                if await self._try(f"{runner}/placements/{placement['placement_id']}/end", ended):
                    self._ended += 1

    async def _try(self, path: str, body: Any) -> Any:
        try:
            return await self._post(path, body)
        except (ConnectionFailed, ValueError) as error:
            self._errors[str(error)[:200]] += 1
            await asyncio.sleep(0.5)
            return None

    async def _post(self, path: str, body: Any) -> Any:
        url = f"{self._server}/runner/{path}"
        async with self._connections.post(url, self._headers, to_json(body)) as exchange:
            content = await exchange.read()
        if exchange.status >= 300:
            raise ValueError(f"{exchange.status} {content[:150].decode(errors='replace')}")
        return from_json(content)


if __name__ == "__main__":
    uvloop.run(Fleet(sys.argv[1], sys.stdin.readline().strip()).run(int(sys.argv[2])))
