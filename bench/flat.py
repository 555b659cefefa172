"""A batch that shares nothing, where prefix trees help nobody: our pass, as earlier versions computed it, and TRL's.

Random Qwen3 of 4.2M parameters (4 layers of width 256), rank 16, 32 trajectories, about 13,000 tokens, in one process;
variants are alternated, and ratios are taken round by round:

    trl            the loss of TRL's trainer and its backward, generation taken out
    peft           our pass by a plan of an earlier version: PEFT's own forward of adapted layers, and torch's products
    torch          our pass by torch's products
    ours           our pass
    all but trl    of a batch in which half of the groups have no spread, whose advantages are all zero

Seconds are of the processor for one thread, else of the clock: only an idle machine says anything then.
`python -m bench.flat [--threads 2]`; a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bench.baselines import Step
from bench.batches import Shape, count_tokens
from bench.clock import alternate, ratio, step_seconds
from bench.figures import write_figures
from bench.models import small_config
from bench.policies import LOSS, MODEL, Policies, make_policies
from bench.trl_path import trl_step
from trainer.engine.engine import EngineSettings
from trainer.engine.heap import Heap
from wire.conversion import to_datums
from wire.datums import Datum
from wire.engine import LoraConfig
from wire.plans import PEFT_LORA, TORCH_PRODUCTS, PlanSettings
from wire.trajectories import Batch

FLAT = Shape(num_groups=4, group_size=8, num_turns=1, prompt=(256, 385), output=(64, 129), shared_prompt=False)
OURS = "ours"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--groups", type=int, default=FLAT.num_groups, help="of eight trajectories")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    Heap().keep_freed()
    with tempfile.TemporaryDirectory() as folder:
        settings, lora = EngineSettings(threads=options.threads), LoraConfig(rank=options.rank)
        policies = make_policies(small_config(), Path(folder) / "policies", lora, settings)
        batch = policies.batch(replace(FLAT, num_groups=options.groups), seed=0)
        found = {
            "flat": _measured(policies, batch, options, trl=trl_step(policies.stock(), batch)),
            "half without spread": _measured(policies, _half_without_spread(batch), options),
        }
    print(f"{count_tokens(batch).unique} tokens, {options.threads} threads, load {os.getloadavg()[0]:.1f}")
    for name, variants in found.items():
        for variant, of in variants.items():
            times = "{median:.2f}× ours ({min:.2f}–{max:.2f})".format(**of)
            print(f"{name:22}{variant:8}{of['seconds']:8.3f} s   {times}")
    write_figures("flat", {"threads": options.threads, **found})


def _measured(
    policies: Policies, batch: Batch, options: argparse.Namespace, trl: Step | None = None
) -> dict[str, dict[str, float]]:
    datums = to_datums(batch)
    steps: dict[str, Step] = {
        **({} if trl is None else {"trl": trl}),
        "peft": _as_before(policies, datums, options.threads),
        "torch": _by_torch(policies, datums),
        OURS: lambda: policies.engine.forward_backward(MODEL, datums, LOSS),
    }
    clock: Callable[[Step], float] = step_seconds if options.threads == 1 else _wall_seconds
    alternate(steps, 1, clock)
    seconds = alternate(steps, options.rounds, clock)
    return {name: {"seconds": statistics.median(of), **ratio(of, seconds[OURS])} for name, of in seconds.items()}


def _as_before(policies: Policies, datums: Sequence[Datum], threads: int) -> Step:
    """By settings alone, as operations that have no plan are replayed."""
    plan = policies.engine.plan(datums, settings=PlanSettings(EngineSettings().max_tokens_per_pass, threads))
    assert plan.lora == PEFT_LORA
    return lambda: policies.engine.forward_backward(MODEL, datums, LOSS, plan)


def _by_torch(policies: Policies, datums: Sequence[Datum]) -> Step:
    plan = replace(policies.engine.plan(datums), products=TORCH_PRODUCTS)
    return lambda: policies.engine.forward_backward(MODEL, datums, LOSS, plan)


def _half_without_spread(batch: Batch) -> Batch:
    """Every second group's rewards are all the same."""
    size = batch.group_size or 1
    trajectories = [
        replace(trajectory, reward=1.0) if (index // size) % 2 else trajectory
        for index, trajectory in enumerate(batch.trajectories)
    ]
    return replace(batch, trajectories=trajectories)


def _wall_seconds(step: Step) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
