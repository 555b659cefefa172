"""A managed run whose processes die: `python -m tests.chaos.managed_run --deaths 100`.

Three runners, a server, a trainer, a sampler and PostgreSQL on one machine. First the run goes through undisturbed;
then the same run on another fork, while whatever there is dies at random. Both must leave the same adapters, bit for
bit; every step must be trained on complete groups, and each rollout be counted once. Exits with 1 if they are not.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.figures import machine
from tests.chaos.box import KINDS, Box
from tests.chaos.client import GaveUp, PatientClient
from tests.chaos.invariants import of_database
from tests.chaos.outcome import files_of
from tests.chaos.processes import send
from tests.supervised.service import Service

ROOT = Path(__file__).parents[2]
TINY_BASE = ROOT / ".headway-cache" / "tiny-arith"
ENVIRONMENT = ROOT / "examples" / "deployed"
NUM_RUNNERS = 3
GROUP_SIZE, TASKS_PER_STEP, NUM_TASKS = 4, 2, 12
ENDED = ("completed", "stopped", "failed", "cancelled")
_PAUSE_S = (1.0, 7.0)
_TRIES = 5
_PATIENCE_S = 3600.0

_STEPS = "select * from run_steps where run_id = %(run_id)s order by step, kind"
_CHECKPOINT = "select * from checkpoints where id = %(id)s"
_ROLLOUTS = """
    select h.step, h.purpose, h.position, count(*) as tries, max(p.attempt) as attempts,
        count(*) filter (where t.status = 'completed') as completed
    from hosted_rollouts h join placements p on p.id = h.placement_id
    join traces t on t.team_id = h.team_id and t.id = h.trace_id
    where h.run_id = %(run_id)s group by 1, 2, 3
"""

Trouble = Callable[["Driven"], None]
"""What is done to the box while a run goes on, until it has ended."""


@dataclass(slots=True)
class Left:
    """What a run left: of each step the SHA-256 of its files, and what it was trained on."""

    files: list[dict[str, str]]
    rewards: list[float]
    scores: list[float]
    wrong: list[str]
    tries: int
    attempts: int
    seconds: float


@dataclass(slots=True)
class Report:
    """What came of it."""

    deaths: Counter[str] = field(default_factory=Counter[str])
    steps: int = 0
    rollouts: int = 0
    undisturbed_s: float = 0.0
    disturbed_s: float = 0.0
    tries: int = 0
    attempts: int = 0
    wrong: list[str] = field(default_factory=list[str])


@contextmanager
def open_box() -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="headway-run-chaos-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)  # PostgreSQL's own user has to get in
        box = Box(Path(name), TINY_BASE, num_runners=NUM_RUNNERS)
        try:
            yield box.start()
        finally:
            box.close()


class Driven:
    """A run on a fork of its own."""

    def __init__(self, box: Service, steps: int) -> None:
        self.box = box
        self.client = PatientClient(lambda: box.url, box.headers)
        self._steps = steps
        self.run_id = ""

    def start(self) -> None:
        slug = f"run-{time.time_ns():x}"
        fork = {"source_model_id": str(self.box.base_id), "name": slug}
        self.model_id: str = self.client.expect("POST", "/v2/models/fork", fork)["id"]
        body = {
            "model": slug,
            "taskset": {"name": "sums", "tasks": tasks(10)},
            "held_out": {"taskset": {"name": "others", "tasks": tasks(30)[:4]}, "every": 10},
            "stop": {"promote": "last", "held_out_drops": 100},
            "config": {
                "steps": self._steps,
                "group_size": GROUP_SIZE,
                "tasks_per_step": TASKS_PER_STEP,
                "learning_rate": 7e-4,
                "max_tokens": 6,
                "max_turns": 1,
                "rollout_tries": 10,
                "rollout_timeout_s": 600,
            },
        }
        self.run_id = self.client.expect("POST", "/v2/runs", body, key=slug)["id"]

    def state(self) -> dict[str, Any]:
        for _ in range(_TRIES):
            with suppress(GaveUp):
                return self.client.expect("GET", f"/v2/runs/{self.run_id}")
        raise AssertionError(f"the service does not answer any more\n{self.box.logs()}")

    def phases(self) -> list[Any]:
        return self.box.query(_STEPS, run_id=self.run_id)


def tasks(first: int) -> list[dict[str, Any]]:
    return [
        {"env": "arithmetic", "id": "add", "args": {"a": first + n, "b": first + 3}, "slug": f"{first + n}+{first + 3}"}
        for n in range(NUM_TASKS)
    ]


def deploy(box: Service) -> None:
    """As `hud deploy`."""
    client, packed = PatientClient(lambda: box.url, box.headers), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(ENVIRONMENT / "env.py", "env.py")
    upload = client.expect("POST", "/v2/builds/upload-url")
    headers = {"Content-Type": "application/gzip"}
    put = httpx.put(upload["upload_url"], content=packed.getvalue(), headers=headers, trust_env=False)
    assert put.is_success, put.text
    body = {"source": "direct", "build_id": upload["build_id"], "name": "arithmetic", "no_cache": False}
    build = client.expect("POST", "/v2/builds/trigger", body)
    deadline = time.monotonic() + 300
    while (status := client.expect("GET", f"/v2/builds/{build['id']}/status"))["status"] != "SUCCEEDED":
        assert status["status"] != "FAILED", status
        assert time.monotonic() < deadline, f"{status}\n{box.logs()}"
        time.sleep(0.2)


def go_through(box: Service, steps: int, trouble: Trouble | None = None) -> Left:
    """One run from its start to its end."""
    driven, started = Driven(box, steps), time.monotonic()
    driven.start()
    if trouble is not None:
        trouble(driven)
    while (run := driven.state())["state"] not in ENDED:
        assert time.monotonic() - started < _PATIENCE_S, f"{run}\n{box.logs()}"
        time.sleep(0.5)
    return _left(driven, run, time.monotonic() - started)


def _left(driven: Driven, run: dict[str, Any], seconds: float) -> Left:
    rows = driven.phases()
    steps = [row for row in rows if row.kind == "train" and row.phase == "done"]
    wrong = [] if run["state"] == "completed" else [f"the run is {run['state']}: {run['error']}"]
    wrong += [] if run["step"] == len(steps) else [f"it says {run['step']} steps, and has {len(steps)}"]
    files, used = list[dict[str, str]](), Counter[str]()
    for row in steps:
        groups = row.chosen.get("groups", [])
        used.update(trace for group in groups for trace in group)
        if [len(group) for group in groups] != [GROUP_SIZE] * TASKS_PER_STEP:
            wrong.append(f"step {row.step} was trained on groups of {[len(group) for group in groups]}")
        (checkpoint,) = driven.box.query(_CHECKPOINT, id=row.checkpoint_id)
        files.append(files_of(driven.box, driven.model_id, checkpoint))
    wrong += [f"rollout {trace} was counted {count} times" for trace, count in used.items() if count > 1]
    rollouts = driven.box.query(_ROLLOUTS, run_id=driven.run_id)
    wrong += [
        f"{row.purpose} {row.step}.{row.position} has {row.completed} results" for row in rollouts if row.completed != 1
    ]
    wrong += of_database(driven.box)
    return Left(
        files,
        [row.metrics["reward"] for row in steps],
        [row.score for row in rows if row.kind == "held_out"],
        wrong,
        sum(row.tries for row in rollouts),
        sum(row.attempts for row in rollouts),
        seconds,
    )


def differences(left: Left, undisturbed: Left) -> list[str]:
    """Everything that is not as it should be."""
    found = list(left.wrong)
    for name in ("rewards", "scores"):
        if getattr(left, name) != getattr(undisturbed, name):
            found.append(f"{name}: {getattr(left, name)} instead of {getattr(undisturbed, name)}")
    for step, (mine, expected) in enumerate(zip(left.files, undisturbed.files, strict=False), 1):
        found += [f"step {step}: {path} has other bits" for path in expected if mine.get(path) != expected[path]]
    return found


class Deaths:
    """Kills whatever there is, at random, so many times at most, until the run has ended."""

    def __init__(self, box: Box, most: int, seed: int) -> None:
        self._box, self._most, self._draw = box, most, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._kill, daemon=True)

    def __call__(self, driven: Driven) -> None:
        self._thread.start()
        while (run := driven.state())["state"] not in ENDED:
            print(f"     step {run['step']}: {run['waiting_for'] or run['state']}", flush=True)
            time.sleep(10.0)
        self._ending.set()
        self._thread.join()

    def _kill(self) -> None:
        victims = (*KINDS, *self._box.runners)
        while sum(self.counts.values()) < self._most and not self._ending.wait(self._draw.uniform(*_PAUSE_S)):
            kind = self._draw.choice(victims)
            send(self._box.pid(kind), signal.SIGKILL)
            self.counts[kind.partition("-")[0]] += 1
            print(f"{sum(self.counts.values()):4} deaths: {kind}", flush=True)
            if kind == "postgres":
                self._box.query("select 1")  # returns when it answers again


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deaths", type=int, default=100, help="at least so many, over one run or several")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(f"bench/results/chaos-run-{os.cpu_count()}-cores.json"))
    arguments = parser.parse_args()
    report = Report(steps=arguments.steps)
    with open_box() as box:
        deploy(box)
        undisturbed = go_through(box, arguments.steps)
        report.undisturbed_s = round(undisturbed.seconds, 1)
        report.wrong += undisturbed.wrong
        print(f"undisturbed: {undisturbed.seconds:.0f} s, rewards {undisturbed.rewards}", flush=True)
        seed = arguments.seed
        while sum(report.deaths.values()) < arguments.deaths:
            deaths = Deaths(box, arguments.deaths - sum(report.deaths.values()), seed)
            left = go_through(box, arguments.steps, deaths)
            seed += 1
            report.deaths += deaths.counts
            report.disturbed_s = round(report.disturbed_s + left.seconds, 1)
            report.tries, report.attempts = report.tries + left.tries, report.attempts + left.attempts
            report.rollouts += len(left.rewards) * GROUP_SIZE * TASKS_PER_STEP
            report.wrong += (wrong := differences(left, undisturbed))
            said = wrong or "the same bits"
            print(f"{sum(deaths.counts.values())} deaths in {left.seconds:.0f} s: {said}", flush=True)
    found = {**asdict(report), "deaths": dict(report.deaths), **machine()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return int(bool(report.wrong))


if __name__ == "__main__":
    sys.exit(main())
