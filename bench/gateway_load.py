"""The clients of `bench.gateway`, in a process of their own: many rollouts at once, or requests at a given rate.

A rollout has several turns, with the time of an environment in between. `kind`: "rollout" asks for token ids and
logprobs and continues the ids it got, as the training client does; "recorded" names a trace besides, so that it is
recorded; "plain" is a chat with logprobs, which any gateway understands. Reads its orders as JSON from the command
line, prints what it saw as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import statistics
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import uvloop
from pydantic_core import from_json, to_json

from bench.stand_in_sampler import answer_s
from server.sampling.connections import ConnectionFailed, Connections
from wire.process.lifeline import follow_parent


@dataclass
class Orders:
    url: str
    key: str
    model: str
    kind: str
    seconds: float
    warm_up_s: float = 2.0
    rollouts: int = 0
    per_second: float = 0.0
    turns: int = 4
    environment_s: float = 0.25


@dataclass
class Seen:
    """Requests that ended in the measured time; at a rate, those that began in it."""

    latencies_ms: list[float] = field(default_factory=list)
    added_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    num_output_tokens: int = 0


class Load:
    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._connections = Connections(connect_s=30, read_s=120)
        self._headers = f"Authorization: Bearer {orders.key}\r\nContent-Type: application/json\r\n".encode()
        self._measured_from = self._ends_at = 0.0
        self.seen = Seen()

    async def run(self) -> dict[str, Any]:
        start = time.perf_counter()
        self._measured_from = start + self._orders.warm_up_s
        self._ends_at = self._measured_from + self._orders.seconds
        print(json.dumps({"measuring_in_s": self._orders.warm_up_s}), flush=True)
        await (self._at_a_rate() if self._orders.per_second else self._at_once())
        return self._summary()

    async def _at_once(self) -> None:
        """Every rollout begins anew when it ends. They begin within the warm-up, not all in the same millisecond."""

        async def endless() -> None:
            await asyncio.sleep(random.random() * self._orders.warm_up_s * 0.5)
            while time.perf_counter() < self._ends_at:
                await self._rollout()

        tasks = [asyncio.create_task(endless()) for _ in range(self._orders.rollouts)]
        await asyncio.sleep(self._ends_at - time.perf_counter())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _at_a_rate(self) -> None:
        """Rollouts that begin at random moments, so that there are so many turns a second in the mean, whether or not
        the gateway keeps up."""
        tasks, at = set[asyncio.Task[Any]](), time.perf_counter()
        while at < self._ends_at:
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            task = asyncio.create_task(self._rollout())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            at += random.expovariate(self._orders.per_second / self._orders.turns)
        await asyncio.gather(*tasks)

    async def _rollout(self) -> None:
        messages, so_far, trace = self._first_messages(), None, uuid.uuid4().hex
        for _ in range(self._orders.turns):
            reply = await self._turn(messages, so_far, trace)
            if reply is None or time.perf_counter() > self._ends_at:
                return
            choice = reply["choices"][0]
            if self._orders.kind != "plain":
                so_far = (choice["prompt_token_ids"] + choice["token_ids"], len(messages) + 1)
            messages = [*messages, choice["message"], {"role": "user", "content": "The tool says: 42. " * 12}]
            await asyncio.sleep(self._orders.environment_s)

    def _first_messages(self) -> list[dict[str, Any]]:
        question = f"ServingQuery {random.randrange(512)}: what is the sum of the following numbers? "
        return [{"role": "user", "content": question + "17 and 25, " * 64}]

    async def _turn(self, messages: list[dict[str, Any]], so_far: tuple[list[int], int] | None, trace: str) -> Any:
        body: dict[str, Any] = {"model": self._orders.model, "messages": messages, "logprobs": True, "max_tokens": 256}
        if self._orders.kind != "plain":
            body["return_token_ids"] = True
        if so_far:
            body["prompt_token_ids"], body["continuation_from"] = so_far
        started = time.perf_counter()
        try:
            url = f"{self._orders.url}/v1/chat/completions"
            traced = f"Trace-Id: {trace}\r\n".encode() if self._orders.kind == "recorded" else b""
            headers = self._headers + traced
            async with self._connections.post(url, headers, to_json(body)) as exchange:
                content = await exchange.read()
            failure = None if exchange.status == 200 else f"{exchange.status} {content[:200].decode(errors='replace')}"
        except ConnectionFailed as error:
            content, failure = b"", str(error)
        ended = time.perf_counter()
        if failure:
            if ended > self._measured_from:
                self.seen.errors[failure] += 1
            await asyncio.sleep(0.5)
            return None
        reply = from_json(content)
        # At a rate, what began before is not ours: the load of an earlier measurement may still be ending.
        if self._measured_from < (started if self._orders.per_second else ended) and started < self._ends_at:
            self._note((ended - started) * 1e3, reply["usage"]["completion_tokens"])
        return reply

    def _note(self, latency_ms: float, num_tokens: int) -> None:
        self.seen.latencies_ms.append(latency_ms)
        self.seen.added_ms.append(latency_ms - answer_s(num_tokens) * 1e3)
        self.seen.num_output_tokens += num_tokens

    def _summary(self) -> dict[str, Any]:
        num = len(self.seen.latencies_ms)
        return {
            "requests": num,
            "errors": sum(self.seen.errors.values()),
            "first_errors": dict(self.seen.errors.most_common(3)),
            "requests_per_s": round(num / self._orders.seconds, 1),
            "tokens_per_s": round(self.seen.num_output_tokens / self._orders.seconds),
            "latency_ms": _percentiles(self.seen.latencies_ms),
            "added_ms": _percentiles(self.seen.added_ms),
        }


def _percentiles(values: list[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100)
    return {f"p{p}": round(cuts[p - 1], 1) for p in (50, 90, 99)}


if __name__ == "__main__":
    follow_parent()
    gc.disable()  # a pause of the clients would be taken for one of the gateway
    print(json.dumps(uvloop.run(Load(Orders(**json.loads(sys.argv[1]))).run())), flush=True)
