"""How many steps a second a base makes for one model, and for many whose clients take no turns.

Run under `headway up`, so that every process is the real one. Each model has a client of its own, which sends an
8-token forward_backward and its optim_step, each after the answer of the one before. One model and many take turns,
block by block, so that a slow phase of the machine befalls both; the ratio is the median over the rounds. Prints a
table, then one JSON line.

    headway up --port 0 --base tiny-arith=… -- python -m bench.many_models --models 32
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import httpx

from bench.step_latency import fork, promoted_step


def main() -> None:
    """Measure both in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=64, help="of a block")
    options = parser.parse_args()
    client = httpx.Client(
        base_url=os.environ["HUD_RL_URL"],
        headers={"Authorization": f"Bearer {os.environ['HUD_API_KEY']}"},
        timeout=120,
        trust_env=False,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=options.models),
    )
    models = [fork(client) for _ in range(options.models)]
    steps_per_s(client, models, 2 * len(models))
    rounds = [
        (steps_per_s(client, models[:1], options.steps // 2), steps_per_s(client, models, options.steps))
        for _ in range(options.rounds)
    ]
    one, many = (statistics.median(figures) for figures in zip(*rounds, strict=True))
    ratios = sorted(several / alone for alone, several in rounds)
    print(f"steps/s: one model {one:.1f}, {options.models} models {many:.1f}")
    print(f"ratio: median {statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}")
    figures = {"one": round(one, 2), "many": round(many, 2), "ratio": round(statistics.median(ratios), 3)}
    print(json.dumps({"bench": "many_models", "models": options.models, "cores": os.cpu_count(), **figures}))


def steps_per_s(client: httpx.Client, models: list[str], num_steps: int) -> float:
    """So many steps, divided among the models, each of which has one under way."""
    each = max(1, num_steps // len(models))
    started = time.perf_counter()
    with ThreadPoolExecutor(len(models)) as clients:
        list(clients.map(_steps, repeat(client), models, repeat(each)))
    return each * len(models) / (time.perf_counter() - started)


def _steps(client: httpx.Client, model: str, num_steps: int) -> None:
    for _ in range(num_steps):
        promoted_step(client, model)


if __name__ == "__main__":
    main()
