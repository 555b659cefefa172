"""How many steps a second a base makes for one model, and for many whose clients take no turns; and what a step costs.

Run under `headway up`, so that every process is the real one. Each model has a client of its own, which sends an
8-token forward_backward and its optim_step, each after the answer of the one before. One model and many take turns,
block by block, so that a slow phase of the machine befalls both; the ratio is the median over the rounds. Processor
time is that of all processes of a plane, what it does beside steps included, and "client" is this one's. Prints a
table, then one JSON line.

    headway up --port 0 --base tiny-arith=… -- python -m bench.many_models --models 32
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import httpx

from bench.figures import write_figures
from bench.planes import cpu_seconds, processes_by_plane
from bench.small_step import connect, fork, promoted_step

_PLANES: tuple[str, ...] = ("server", "trainer", "sampler", "postgres", "client")


@dataclass(frozen=True, slots=True)
class Block:
    """Steps that were made one after the other, or beside one another. cpu_ms: a step's, by plane."""

    steps_per_s: float
    cpu_ms: dict[str, float]


def main() -> None:
    """Measure both in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=32)
    parser.add_argument("--lora-rank", type=int, help="of all adapters; default: the server's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=64, help="of a block")
    options = parser.parse_args()
    client = connect(options.models)
    models = [fork(client, options.lora_rank) for _ in range(options.models)]
    take_steps(client, models, 2 * len(models))
    rounds = [
        (take_steps(client, models[:1], options.steps // 2), take_steps(client, models, options.steps))
        for _ in range(options.rounds)
    ]
    lora_rank = client.get(f"/v2/models/{models[0]}").json()["lora"]["rank"]
    _report(rounds, {"models": options.models, "lora_rank": lora_rank})


def take_steps(client: httpx.Client, models: list[str], num_steps: int) -> Block:
    """So many steps, divided among the models, each of which has one under way."""
    each = max(1, num_steps // len(models))
    num = each * len(models)
    before, started = _cpu_seconds(), time.perf_counter()
    with ThreadPoolExecutor(len(models)) as clients:
        list(clients.map(_steps, repeat(client), models, repeat(each)))
    took_s, after = time.perf_counter() - started, _cpu_seconds()
    return Block(num / took_s, {plane: (after[plane] - before[plane]) * 1e3 / num for plane in _PLANES})


def _steps(client: httpx.Client, model: str, num_steps: int) -> None:
    for _ in range(num_steps):
        promoted_step(client, model)


def _cpu_seconds() -> dict[str, float]:
    """So far, of each plane; we are below `headway up` ourselves."""
    seconds = dict.fromkeys(_PLANES, 0.0)
    for plane, pid in processes_by_plane(os.getppid()):
        plane = "client" if pid == os.getpid() else plane
        seconds[plane] = seconds.get(plane, 0.0) + cpu_seconds(pid)
    return seconds


def _report(rounds: Sequence[tuple[Block, Block]], about: dict[str, int]) -> None:
    one, many = ([both[index] for both in rounds] for index in (0, 1))
    speed = [statistics.median(block.steps_per_s for block in blocks) for blocks in (one, many)]
    ratios = sorted(several.steps_per_s / alone.steps_per_s for alone, several in rounds)
    print(f"steps/s: one model {speed[0]:.1f}, {about['models']} models {speed[1]:.1f}, rank {about['lora_rank']}")
    print(f"ratio: median {statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}")
    print(f"{'processor ms a step':22}{'one':>8}{'many':>8}")
    costs = [_cpu_ms(blocks) for blocks in (one, many)]
    for plane in (*_PLANES, "sum"):
        print(f"{plane:22}{costs[0][plane]:>8}{costs[1][plane]:>8}")
    figures = {"one": round(speed[0], 2), "many": round(speed[1], 2), "ratio": round(statistics.median(ratios), 3)}
    cpu_ms = {"cpu_ms_one": costs[0], "cpu_ms_many": costs[1]}
    write_figures("many_models", {**about, **figures, **cpu_ms})


def _cpu_ms(blocks: Sequence[Block]) -> dict[str, float]:
    """Of all blocks together: a block is short beside the ticks that processor time is counted in."""
    found = {plane: statistics.fmean(block.cpu_ms[plane] for block in blocks) for plane in _PLANES}
    return {plane: round(value, 1) for plane, value in {**found, "sum": sum(found.values())}.items()}


if __name__ == "__main__":
    main()
