"""Clients that never stop asking while one trainer never stops promoting, all through the gateway.

A client asks as training clients do: whole, streamed, two choices at once, greedily, and a second turn that continues
the ids of the first. What it got is kept with the checkpoint that the answer names.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

TRAINED_ON = {"max_tokens": 8, "ignore_eos": True, "logprobs": True, "return_token_ids": True}


@dataclass(frozen=True, slots=True)
class Answer:
    """Sampled tokens with the sampler's logprobs (nats), and the checkpoint that is said to have sampled them; None:
    the base weights."""

    checkpoint: str | None
    prompt_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]


@dataclass(slots=True)
class Seen:
    """What came of it. `stale` counts answers by an older checkpoint than was the head when they were asked for."""

    answers: list[Answer] = field(default_factory=list[Answer])
    requests: int = 0
    errors: Counter[str] = field(default_factory=Counter[str])
    stale: int = 0
    checkpoints: list[str] = field(default_factory=list[str])
    optim_step_s: list[float] = field(default_factory=list[float])
    seconds: float = 0.0


class Refused(Exception):
    """Any answer but the one that was asked for."""


async def promote_under_load(
    url: str, key: str, base_slug: str, num_promotions: int, num_clients: int, progress: Callable[[Seen], None]
) -> tuple[str, Seen]:
    """A fork of the base is trained `num_promotions` steps while clients ask it; its id, and what they saw.

    `progress` is called after each promotion. The trainer's own requests must not fail: raises Refused.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=600, limits=limits) as http:
        models = (await _call(http, "GET", "/v2/models"))["items"]
        base = next(model for model in models if model["model_name"] == base_slug)
        fork = {"source_model_id": base["id"], "name": f"promotions-{time.time_ns():x}"}
        load = _Load(http, fork["name"], (await _call(http, "POST", "/v2/models/fork", fork))["id"])
        started = time.perf_counter()
        clients = [asyncio.create_task(load.ask_on_and_on(number)) for number in range(num_clients)]
        try:
            await load.until_answered(num_clients)
            for _ in range(num_promotions):
                await load.promote()
                await load.until_answered(num_clients // 2)
                progress(load.seen)
        finally:
            load.ended = True
            await asyncio.gather(*clients)
        load.seen.seconds = time.perf_counter() - started
        return load.model_id, load.seen


class _Load:
    def __init__(self, http: httpx.AsyncClient, slug: str, model_id: str) -> None:
        self._http = http
        self._slug = slug
        self._step = 0
        self._random = random.Random(0)
        self.model_id = model_id
        self.ended = False
        self.seen = Seen()

    async def until_answered(self, num: int) -> None:
        """Every checkpoint gets so many answers, however slow the machine is."""
        enough = self.seen.requests + num
        while self.seen.requests < enough:  # noqa: ASYNC110 (many tasks count)
            await asyncio.sleep(0.01)

    async def promote(self) -> None:
        """One step on fresh rollouts, with rewards from nowhere: the weights have to move, not to improve."""
        groups = await asyncio.gather(*(self._chat(self._question(), n=4, **TRAINED_ON) for _ in range(2)))
        inputs = [
            {"samples": [_sample(choice)], "reward": self._random.random()}
            for group in groups
            for choice in group["choices"]
        ]
        train = f"/v1/models/{self.model_id}/train"
        await _call(self._http, "POST", f"{train}/forward-backward", {"inputs": inputs, "group_size": 4})
        started = time.perf_counter()
        done = await _call(self._http, "POST", f"{train}/optim-step", {"learning_rate": 3e-4})
        self.seen.optim_step_s.append(time.perf_counter() - started)
        self.seen.checkpoints.append(done["checkpoint_id"])
        self._step = done["step"]

    async def ask_on_and_on(self, number: int) -> None:
        ways = (self._ask_whole, self._ask_in_a_stream, self._ask_twice, self._ask_greedily, self._ask_two_turns)
        for turn in range(1 << 30):
            if self.ended:
                return
            try:
                await ways[(number + turn) % len(ways)]()
            except (Refused, httpx.HTTPError, KeyError, IndexError) as error:
                self.seen.errors[f"{type(error).__name__}: {error}"[:300]] += 1
                await asyncio.sleep(0.2)

    async def _ask_whole(self) -> None:
        await self._chat(self._question(), **TRAINED_ON | {"max_tokens": 12})

    async def _ask_twice(self) -> None:
        await self._chat(self._question(), n=2, seed=self._random.randrange(1 << 40), **TRAINED_ON)

    async def _ask_greedily(self) -> None:
        await self._chat(self._question(), temperature=0.0, **TRAINED_ON)

    async def _ask_two_turns(self) -> None:
        asked = self._question()
        first = (await self._chat(asked, **TRAINED_ON))["choices"][0]
        said = {"role": "assistant", "content": first["message"].get("content") or ""}
        ids = first["prompt_token_ids"] + first["token_ids"]
        again = [*asked, said, *self._question()]
        reply = await self._chat(again, prompt_token_ids=ids, continuation_from=2, **TRAINED_ON)
        if reply["choices"][0]["prompt_token_ids"][: len(ids)] != ids:
            raise Refused("the second turn does not continue the ids of the first")

    async def _ask_in_a_stream(self) -> None:
        known, chunks = self._step, list[dict[str, Any]]()
        body = self._body(self._question(), stream=True, **TRAINED_ON | {"max_tokens": 20})
        async with self._http.stream("POST", "/v1/chat/completions", json=body) as reply:
            if reply.status_code != 200:
                raise Refused(f"{reply.status_code} {(await reply.aread())[:200].decode(errors='replace')}")
            lines = [line.removeprefix("data: ") async for line in reply.aiter_lines() if line]
        if lines[-1] != "[DONE]":
            raise Refused(f"a stream ended with {lines[-1][:200]}")
        chunks = [json.loads(line) for line in lines[:-1]]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        merged = {
            "prompt_token_ids": chunks[0]["prompt_token_ids"],
            "token_ids": [token_id for choice in choices for token_id in choice.get("token_ids") or []],
            "logprobs": {"content": [t for c in choices for t in (c.get("logprobs") or {}).get("content") or []]},
        }
        self._note(known, {"checkpoint": chunks[-1]["checkpoint"], "choices": [merged]})

    async def _chat(self, messages: list[dict[str, Any]], **params: Any) -> Any:
        known = self._step
        reply = await _call(self._http, "POST", "/v1/chat/completions", self._body(messages, **params))
        self._note(known, reply)
        return reply

    def _body(self, messages: list[dict[str, Any]], **params: Any) -> dict[str, Any]:
        return {"model": self._slug, "messages": messages, **params}

    def _question(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": f"{self._random.randrange(10, 40)}+{self._random.randrange(10, 40)}=?"}]

    def _note(self, known_step: int, reply: dict[str, Any]) -> None:
        checkpoint = reply["checkpoint"] or {"id": None, "step": 0}
        self.seen.requests += 1
        self.seen.stale += checkpoint["step"] < known_step
        for choice in reply["choices"]:
            sample = _sample(choice)
            num_wanted, num = len(sample["output_token_ids"]), len(sample["output_logprobs"])
            if not 0 < num == num_wanted:
                raise Refused(f"{num_wanted} tokens with {num} logprobs")
            self.seen.answers.append(Answer(checkpoint["id"], *sample.values()))


def _sample(choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt_token_ids": choice["prompt_token_ids"],
        "output_token_ids": choice["token_ids"],
        "output_logprobs": [token["logprob"] for token in choice["logprobs"]["content"]],
    }


async def _call(http: httpx.AsyncClient, method: str, path: str, body: Any = None) -> Any:
    reply = await http.request(method, path, json=body)
    if not reply.is_success:
        raise Refused(f"{path}: {reply.status_code} {reply.text[:200]}")
    return reply.json()
