"""What a step and each list cost the server, in models of 40, 400 and 4,000 steps.

    python -m bench.depth --out bench/results/depth.json

Starts a box with the tiny base. Of each depth it forks a model, trains one step and puts so many others, made by SQL,
beneath it; then it trains some steps of each in turn, several rounds, and asks for each list in turn, fewer rounds.
Counted is the processor time of the server's processes and of PostgreSQL; of a step, until the guard has looked at it.
`--models` and `--traces` say how much there is beside these models. It takes four minutes.

Exits 0 if the server's time for a step is the same at every depth within 20 %.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg

from bench.figures import write_figures
from bench.planes import cpu_seconds, processes_by_plane
from bench.small_step import BATCH
from bench.trainee import TINY_BASE
from store.embedded import EmbeddedPostgres
from tests.depth.many_rows import Sizes, deepen, fill_beside
from tests.e2e.box import Box

DEPTHS = (40, 400, 4000)
FLAT = 1.2
_LIST_ROUNDS = 3
_UNCHECKED = "select count(*) from checkpoints where guard_checked_at is null and status = 'committed'"


@dataclass(slots=True)
class Cost:
    """Milliseconds, each entry of one call or of one round's steps."""

    server_ms: list[float] = field(default_factory=list[float])
    postgres_ms: list[float] = field(default_factory=list[float])
    wall_ms: list[float] = field(default_factory=list[float])
    num_bytes: int = 0

    def medians(self) -> dict[str, float]:
        """Of each figure."""
        found = {
            name: round(statistics.median(getattr(self, name)), 2) for name in ("server_ms", "postgres_ms", "wall_ms")
        }
        return {**found, "bytes": self.num_bytes}


class Measured:
    """A box, its database, and what its processes have used."""

    def __init__(self, box: Box) -> None:
        assert box.process is not None
        self._up = box.process.pid
        self.box = box
        self.client = httpx.Client(base_url=box.url, headers=box.headers, timeout=120, trust_env=False)
        self._browser = httpx.Client(base_url=box.url, headers={"Accept": "text/html"}, timeout=120, trust_env=False)
        self._browser.post("/login", data={"key": box.env["HUD_API_KEY"], "next": "/"})
        self._admin = httpx.Client(base_url=box.url, headers=box.admin_headers, timeout=120, trust_env=False)
        url = EmbeddedPostgres(box.data_dir.resolve() / "postgres").url
        self.database = psycopg.connect(url, autocommit=True)

    def client_for(self, path: str) -> httpx.Client:
        """Who asks for it: a client of the API, an operator, or a browser."""
        if path == "/metrics":
            return self._admin
        return self.client if path.startswith("/v2") or path == "/models" else self._browser

    def fork(self, depth: int) -> str:
        """A model with so many steps beneath one that was trained; its id."""
        model_id = self.box.fork(f"depth-{depth}-{uuid.uuid4().hex[:8]}")
        self.step(model_id)
        deepen(self.database, uuid.UUID(model_id), depth)
        return model_id

    def fill_beside(self, model_id: str, sizes: Sizes) -> None:
        """Other models of its team, which nobody trains, and rollouts."""
        query = "select team_id from models where id = %(id)s"
        (team_id,) = self.database.execute(query, {"id": model_id}).fetchone() or ()
        fill_beside(self.database, team_id, uuid.UUID(model_id), sizes, trained=False)

    def step(self, model_id: str) -> None:
        """Both calls."""
        train = f"/v1/models/{model_id}/train"
        self.client.post(f"{train}/forward-backward", json=BATCH).raise_for_status()
        self.client.post(f"{train}/optim-step", json={"learning_rate": 1e-5}).raise_for_status()

    def until_guarded(self) -> None:
        """Wait until the guard has looked at every step."""
        while (row := self.database.execute(_UNCHECKED).fetchone()) and row[0]:
            time.sleep(0.05)

    @contextmanager
    def counted(self, cost: Cost, times: int = 1) -> Generator[None]:
        """Of what happens in the block `times` times, the cost of one."""
        server, postgres, wall = self._used("server"), self._used("postgres"), time.perf_counter()
        yield
        cost.wall_ms.append((time.perf_counter() - wall) / times * 1e3)
        cost.server_ms.append((self._used("server") - server) / times * 1e3)
        cost.postgres_ms.append((self._used("postgres") - postgres) / times * 1e3)

    def _used(self, plane: str) -> float:
        return sum(cpu_seconds(pid) for kind, pid in processes_by_plane(self._up) if kind == plane)


def steps(measured: Measured, models: dict[int, str], rounds: int, num_steps: int) -> dict[int, Cost]:
    """Of a step at each depth, the guard's look at it included."""
    costs = {depth: Cost() for depth in models}
    for index in range(rounds + 1):  # the first one warms up
        for depth, model_id in models.items():
            with measured.counted(costs[depth], num_steps):
                for _ in range(num_steps):
                    measured.step(model_id)
                began = time.perf_counter()
                measured.until_guarded()
                waited = time.perf_counter() - began
            costs[depth].wall_ms[-1] -= waited / num_steps * 1e3
        if not index:
            costs = {depth: Cost() for depth in models}
    return costs


def lists(measured: Measured, models: dict[int, str], rounds: int, paths: dict[str, str]) -> dict[str, dict[int, Cost]]:
    """Of each list at each depth, called five times a round."""
    costs = {name: {depth: Cost() for depth in models} for name in paths}
    for _ in range(rounds):
        for name, path in paths.items():
            for depth, model_id in models.items():
                _call(measured, path.format(model_id=model_id, depth=depth), costs[name][depth])
    return costs


def _call(measured: Measured, path: str, cost: Cost, times: int = 5) -> None:
    client = measured.client_for(path)
    with measured.counted(cost, times):
        replies = [client.get(path).raise_for_status() for _ in range(times)]
    cost.num_bytes = len(replies[-1].content)


def main() -> int:
    """Measure, print, write; say whether a step is flat."""
    parser = argparse.ArgumentParser(prog="python -m bench.depth", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="file for the figures")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20, help="of each depth in a round")
    parser.add_argument("--models", type=int, default=5000, help="in the catalog")
    parser.add_argument("--traces", type=int, default=100_000, help="rollouts of the team")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # PostgreSQL may be another user
        box = Box(Path(folder) / "data", TINY_BASE).start()
        try:
            found = _measure(Measured(box), args)
        finally:
            box.stop()
    write_figures("depth", found, args.out)
    return 0 if found["flat"] <= FLAT else 1


def _measure(measured: Measured, args: argparse.Namespace) -> dict[str, Any]:
    models = {depth: measured.fork(depth) for depth in DEPTHS}
    measured.fill_beside(models[DEPTHS[0]], Sizes(args.models, args.traces))
    trained = steps(measured, models, args.rounds, args.steps)
    found: dict[str, Any] = {
        "rounds": args.rounds,
        "step": {depth: _shown("step", depth, cost) for depth, cost in trained.items()},
    }
    found["flat"] = _spread(trained)
    print(f"server's time a step, the most over the least: {found['flat']:.2f}", flush=True)
    found["lists"] = {
        name: {depth: _shown(name, depth, cost) for depth, cost in costs.items()}
        for name, costs in lists(measured, models, min(args.rounds, _LIST_ROUNDS), LISTS).items()
    }
    return found


LISTS = {
    "checkpoints": "/v2/models/{model_id}/checkpoints",
    "model": "/v2/models/{model_id}",
    "head": "/v2/models/{model_id}/head",
    "alarms": "/v2/models/{model_id}/alarms",
    "evals": "/v2/models/{model_id}/evals",
    "contents": "/v2/models/{model_id}/contents",
    "page of checkpoints": "/v2/models/{model_id}/checkpoints?limit=100&newest_first=true",
    "a name": "/v2/models/resolve?model=filler%207",
    "catalog": "/v2/models",
    "OpenAI's list of models": "/models",
    "rollouts": "/v2/traces?limit=50",
    "jobs": "/v2/jobs?limit=20",
    "runs": "/v2/runs?model={model_id}",
    "catalog, 100 of it": "/v2/models?limit=100",
    "page of models": "/",
    "page of a model": "/models/{model_id}",
    "page of its checkpoints": "/models/{model_id}?tab=checkpoints",
    "page of its guard": "/models/{model_id}?tab=guard",
    "its charts": "/live/models/{model_id}/series",
    "its charts, a new step": "/live/models/{model_id}/series?after={depth}",
    "page to compare": "/compare?model={model_id}",
    "its curves": "/live/compare/series?model={model_id}",
    "page of runs": "/runs",
    "page of the system": "/system",
    "metrics": "/metrics",
}


def _shown(name: str, depth: int, cost: Cost) -> dict[str, float]:
    medians = cost.medians()
    print(f"{name:<24} {depth:>5}  " + "  ".join(f"{key} {value:,.1f}" for key, value in medians.items()), flush=True)
    return medians


def _spread(costs: dict[int, Cost]) -> float:
    """The dearest depth over the cheapest, medians of the rounds: a clock tick is 10 ms, so one round says little."""
    medians = [statistics.median(cost.server_ms) for cost in costs.values()]
    return round(max(medians) / min(medians), 3)


if __name__ == "__main__":
    sys.exit(main())
