"""A training loop whose samplers are killed, stopped and told to end at random: `python -m tests.chaos.sampler_deaths`.

Three samplers, at least one of which is always left alone. Rollouts of each step and three clients beside it sample
without pause and never ask twice: an answer that is not streamed must come. It must name the head at the time when it
was asked for, or a later one, and its logprobs must be those of that checkpoint, computed from its files by
transformers and PEFT. At the end every sampler holds what it shall. Exits with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from bench.figures import machine
from store.planes.promotion import missing_adapters
from tests.chaos.box import Box
from tests.chaos.processes import is_alive, send
from tests.chaos.reference import largest_difference

TINY_BASE = Path(__file__).parents[2] / ".headway-cache" / "tiny-arith"
NUM_SAMPLERS = 3
STOPPED_S = (1.0, 4.0, 14.0)
"""Shorter than a heartbeat lasts, and longer."""
_PAUSE_S = (0.5, 3.0)
_NUM_BESIDE = 3
_NUM_CHECKED = 200
_RETURN_S = 120.0

_SIGNALS = {"stop": signal.SIGSTOP, "kill": signal.SIGKILL, "end": signal.SIGTERM}

# Samplers whose requests would be answered now: alive, and with the head.
_HOLDING = """
    select s.pid, s.url from samplers s
    join sampler_adapters a on a.sampler_id = s.id and a.state = 'loaded'
    join models m on m.id = %(model_id)s
    left join checkpoints c on c.id = m.head_checkpoint_id
    where s.stopped_at is null and s.heartbeat_at > clock_timestamp() - interval '5 s'
        and a.adapter = case when c.id is null then 'hw-base-' || replace(m.base_id::text, '-', '')
            else 'hw-' || replace(c.files_id::text, '-', '') end
"""


@dataclass(slots=True)
class Answer:
    """What a client got: the head that it knew of when it asked (an index of `Loop.committed`), and the reply."""

    known_head: int
    seconds: float
    checkpoint: str | None
    choices: list[dict[str, Any]]


@dataclass(slots=True)
class Report:
    """What came of it."""

    steps: int = 0
    kills: int = 0
    stops: int = 0
    ends: int = 0
    answers: int = 0
    failed: list[str] = field(default_factory=list[str])
    stale: list[str] = field(default_factory=list[str])
    streams: int = 0
    streams_broken_cleanly: int = 0
    streams_broken: list[str] = field(default_factory=list[str])
    checked: int = 0
    largest_logprob_difference: float = 0.0
    not_reloaded: list[str] = field(default_factory=list[str])
    seconds: float = 0.0
    answer_s: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def is_good(self) -> bool:
        wrong = self.failed or self.stale or self.streams_broken or self.not_reloaded
        return (
            not wrong
            and self.largest_logprob_difference < 1e-4
            and min(self.kills, self.stops, self.ends, self.checked) > 0
        )


class Saboteur(threading.Thread):
    """Kills, stops and ends (SIGTERM) samplers at random, never the last one that answers."""

    def __init__(self, box: Box, model_id: str, seed: int) -> None:
        super().__init__(daemon=True)
        self._box, self._model_id = box, model_id
        self._draw = random.Random(seed)
        self._frozen: dict[int, float] = {}
        self._ending = threading.Event()
        self.counts: Counter[str] = Counter()

    def run(self) -> None:
        while not self._ending.wait(self._draw.uniform(*_PAUSE_S)):
            self._thaw(time.monotonic())
            self._strike()

    def close(self) -> None:
        """Let everybody go on."""
        self._ending.set()
        self.join()
        self._thaw(float("inf"))

    def _strike(self) -> None:
        pids = {self._box.pid(kind) for kind in self._box.samplers}
        well = {row.pid for row in self._box.query(_HOLDING, model_id=self._model_id)} & pids - self._frozen.keys()
        well = {pid for pid in well if is_alive(pid)}
        if len(well) < 2:
            return
        victim = self._draw.choice(sorted(well))
        action = ("stop", "kill", "end")[self.counts.total() % 3]
        if action == "stop":
            self._frozen[victim] = time.monotonic() + STOPPED_S[self.counts["stop"] % len(STOPPED_S)]
        send(victim, _SIGNALS[action])
        self.counts[action] += 1

    def _thaw(self, now: float) -> None:
        for pid in [pid for pid, until in self._frozen.items() if until <= now]:
            send(pid, signal.SIGCONT)
            del self._frozen[pid]


class Loop:
    """A model in training, and whoever samples from it."""

    def __init__(self, box: Box, seed: int) -> None:
        self.box = box
        self.committed: list[str | None] = [None]
        self.answers: list[Answer] = []
        self.report = Report()
        self._draw = random.Random(seed)
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        self._http = httpx.Client(
            base_url=box.url, headers=box.headers, timeout=300, trust_env=False, verify=False, limits=limits
        )
        body = {"source_model_id": str(box.base_id), "name": f"deaths-{seed}-{time.time_ns() % 10**9}"}
        forked = self._http.post("/v2/models/fork", json=body).raise_for_status().json()
        self.model_id, self.slug = forked["id"], forked["model_name"]

    def ask(self, question: str, **changes: Any) -> list[dict[str, Any]]:
        """The choices of an answer that must come."""
        known, started = len(self.committed) - 1, time.monotonic()
        body = {**self._body(question), **changes}
        try:
            reply = self._http.post("/v1/chat/completions", json=body)
        except httpx.HTTPError as error:
            self.report.failed.append(f"{type(error).__name__}: {error}")
            return []
        if reply.status_code != 200:
            self.report.failed.append(f"{reply.status_code} {reply.text[:300]}")
            return []
        found = reply.json()
        named = found["checkpoint"] and found["checkpoint"]["id"]
        self.answers.append(Answer(known, time.monotonic() - started, named, found["choices"]))
        return found["choices"]

    def stream(self, question: str) -> None:
        """A stream ends whole, or with an error that says so; it is never begun again."""
        body, text = {**self._body(question), "stream": True}, ""
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as reply:
                status = reply.status_code
                text = "".join(reply.iter_text())
        except httpx.HTTPError as error:
            self.report.streams_broken.append(f"{type(error).__name__}: {error}")
            return
        self.report.streams += 1
        events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        if status == 200 and events and events[-1] == "[DONE]":
            roles = sum("assistant" in event for event in events)
            if roles > 1:
                self.report.streams_broken.append(f"begun {roles} times")
        elif status == 200 and events and "error" in json.loads(events[-1]):
            self.report.streams_broken_cleanly += 1
        else:
            self.report.streams_broken.append(f"{status} {text[-300:]}")

    def sample_until(self, stop: threading.Event, index: int) -> None:
        """A client beside the loop."""
        number = 0
        while not stop.is_set():
            number += 1
            question = f"{index}{number % 9}+{number % 7}=?"
            self.stream(question) if number % 4 == 0 else self.ask(question)
            time.sleep(0.05)

    def step(self, pool: ThreadPoolExecutor) -> None:
        """Rollouts of two groups, gradients, a step."""
        questions = [f"{self._draw.randrange(90) + 10}+{self._draw.randrange(90) + 10}=?" for _ in range(2)]
        groups = list(pool.map(lambda question: self.ask(question, n=2), [q for q in questions for _ in range(2)]))
        if not all(groups):
            return
        inputs = [
            {"samples": [_sample(choice)], "reward": float(i % 4)}
            for i, choice in enumerate(choice for choices in groups for choice in choices)
        ]
        url = f"/v1/models/{self.model_id}/train"
        self._http.post(f"{url}/forward-backward", json={"inputs": inputs, "group_size": 4}).raise_for_status()
        stepped = self._http.post(f"{url}/optim-step", json={"learning_rate": 1e-3}).raise_for_status().json()
        self.committed.append(stepped["checkpoint_id"])
        self.report.steps += 1

    def judge(self) -> None:
        """Which answers were stale, and whether what they say is what their checkpoints compute."""
        for answer in self.answers:
            if answer.checkpoint not in self.committed[answer.known_head :]:
                self.report.stale.append(f"knew {self.committed[answer.known_head]}, got {answer.checkpoint}")
        chosen = random.Random(0).sample(self.answers, min(_NUM_CHECKED, len(self.answers)))
        folder = self.box.checkpoints / UUID(self.model_id).hex
        pairs = [(answer.checkpoint, answer.choices[0]) for answer in chosen]
        self.report.checked = len(pairs)
        self.report.largest_logprob_difference = largest_difference(TINY_BASE, folder, pairs)
        seconds = sorted(answer.seconds for answer in self.answers)
        self.report.answers = len(seconds)
        cuts = statistics.quantiles(seconds, n=100)
        self.report.answer_s = {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3), "most": round(seconds[-1], 3)}

    def _body(self, question: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": question}]
        return {
            "model": self.slug,
            "messages": messages,
            "max_tokens": 16,
            "logprobs": True,
            "return_token_ids": True,
        }


def run(box: Box, num_steps: int, seed: int, say: Any = lambda text: None) -> Report:
    """So many steps while samplers die."""
    loop, stop, started = Loop(box, seed), threading.Event(), time.monotonic()
    saboteur = Saboteur(box, loop.model_id, seed)
    with ThreadPoolExecutor(4 + _NUM_BESIDE) as pool:
        beside = [pool.submit(loop.sample_until, stop, index) for index in range(_NUM_BESIDE)]
        saboteur.start()
        try:
            for number in range(num_steps):
                loop.step(pool)
                if (number + 1) % 5 == 0:
                    told = f"{dict(saboteur.counts)}, {len(loop.answers)} answers, {len(loop.report.failed)} failed"
                    say(f"step {number + 1} of {num_steps} after {time.monotonic() - started:.0f} s: {told}")
        finally:
            stop.set()
            saboteur.close()
        for client in beside:
            client.result()
    loop.report.kills, loop.report.stops, loop.report.ends = (saboteur.counts[a] for a in ("kill", "stop", "end"))
    loop.report.seconds = round(time.monotonic() - started, 1)
    loop.report.not_reloaded = _not_reloaded(box)
    loop.judge()
    return loop.report


def _not_reloaded(box: Box) -> list[str]:
    """What is still missing when everybody has had the time to come back."""
    deadline = time.monotonic() + _RETURN_S
    while True:
        with box.database.connection() as connection:
            missing = [f"{m.url} lacks {m.model} {m.checkpoint}: {m.error}" for m in missing_adapters(connection)]
        alive = "select count(*) as live from samplers where heartbeat_at > clock_timestamp() - interval '6 s'"
        ((live,),) = box.query(alive + " and stopped_at is null")
        if (live >= NUM_SAMPLERS and not missing) or time.monotonic() > deadline:
            return missing if live >= NUM_SAMPLERS else [*missing, f"{live} of {NUM_SAMPLERS} samplers are back"]
        time.sleep(0.5)


def _sample(choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt_token_ids": choice["prompt_token_ids"],
        "output_token_ids": choice["token_ids"],
        "output_logprobs": [token["logprob"] for token in choice["logprobs"]["content"]],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(f"bench/results/sampler-deaths-{os.cpu_count()}-cores.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headway-deaths-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)  # PostgreSQL's own user has to get in
        box = Box(Path(name), TINY_BASE, NUM_SAMPLERS)
        try:
            report = run(box.start(), arguments.steps, arguments.seed, lambda text: print(text, flush=True))
            if not report.is_good:
                print(box.logs())
        finally:
            box.close()
    figures = {**machine(), "samplers": NUM_SAMPLERS, **asdict(report)}
    print(json.dumps(figures, indent=1))
    arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if report.is_good and report.steps == arguments.steps else 1


if __name__ == "__main__":
    sys.exit(main())
