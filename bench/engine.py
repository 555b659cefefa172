"""The training engine against plainer ways to the same gradient: time, memory, share of the machine, checkpoints.

Everything runs in one process, on one thread of a CPU, variants alternated; every variant's gradient is checked
against (a)'s in the same run, which fails if one differs, so that the figures compare equal work:

    a naive    PEFT and transformers as they come: a padded row a turn, full logits, eight rows at once
    b merged   the turns of a trajectory merged into one padded row
    c packed   merged and packed without padding, one causal block a sequence
    trl        the GRPO loss of TRL's trainer, generation taken out, on the rows of (a)
    ours       TrainingEngine.forward_backward

It takes about half an hour; `--quick` takes minutes. On a CUDA device it then builds random bases of 4B and 8B and
prints what they reach. Progress goes to stderr, tables and one JSON line to stdout.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import Qwen3Config

from bench.bars import Bar
from bench.batches import SHAPES, Shape
from bench.big_bases import measure_base
from bench.checkpoint_write import checkpoint_write
from bench.clock import ratio, say
from bench.figures import write_figures
from bench.flops import matmul_flops_per_s, useful_flops
from bench.group_memory import measure_memory
from bench.models import BIG_BASES, small_config
from bench.policies import Policies, make_policies
from bench.step_time import MAX_GRADIENT_ERROR, NAIVE, OURS, PACKED, StepTimes, measure_steps
from trainer.engine.heap import Heap

SPEED_BARS = {("A", NAIVE): 7, ("A", PACKED): 1.4, ("L", NAIVE): 15, ("L", PACKED): 3.5}
NEVER_SLOWER = 0.97
LARGE_VOCAB = 32768


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one group of A and of U, one round, step times only")
    parser.add_argument("--rounds", type=int, default=2, help="of all variants")
    parser.add_argument("--pair-rounds", type=int, default=5, help="of c and ours once more")
    options = parser.parse_args()
    torch.set_num_threads(1)
    Heap().keep_freed()  # as the trainer does; the others gain by it too
    if options.quick:
        one_group = {name: replace(SHAPES[name], num_groups=1) for name in ("A", "U")}
        return run(small_config(), one_group, rounds=1, pair_rounds=1, whole=False)
    return run(small_config(), SHAPES, rounds=options.rounds, pair_rounds=options.pair_rounds, whole=True)


def run(config: Qwen3Config, shapes: dict[str, Shape], *, rounds: int, pair_rounds: int, whole: bool) -> int:
    """Measure, print, and return the exit status: 1 if a gradient differs. whole: more than step times."""
    with tempfile.TemporaryDirectory() as folder:
        policies = make_policies(config, Path(folder) / "policies")
        times = [measure_steps(name, shape, policies, rounds, pair_rounds) for name, shape in shapes.items()]
    bars, figures = _speed_bars(times), {"batches": {t.name: t.to_json() for t in times}}
    print("\n\n".join(t.table() for t in times))
    figures["share_of_matmul_peak"] = _print_share(times, policies)
    if whole:
        bars += _measure_memory(figures) + _measure_checkpoints(figures)
        if torch.cuda.is_available():
            figures["big_bases"] = _measure_big_bases()
    wrong = [f"{t.name} {name}" for t in times for name, e in t.gradient_errors.items() if not e <= MAX_GRADIENT_ERROR]
    print("\n" + "\n".join(bar.line() for bar in bars))
    print(f"gradients differ: {', '.join(wrong)}" if wrong else "gradients of all variants are equal")
    machine = {"cuda": torch.cuda.is_available()}
    write_figures("engine", {**machine, **figures, "bars": [bar.to_json() for bar in bars]})
    return 1 if wrong else 0


def _speed_bars(times: Sequence[StepTimes]) -> list[Bar]:
    bars = [
        Bar(f"batch {t.name}: times faster than {than}", t.times_faster(than)["median"], bound)
        for t in times
        for (name, than), bound in SPEED_BARS.items()
        if name == t.name
    ]
    never = [
        Bar(f"batch {t.name}: never slower than packed", t.times_faster(PACKED)["median"], NEVER_SLOWER) for t in times
    ]
    return bars + never


def _print_share(times: Sequence[StepTimes], policies: Policies) -> dict[str, float]:
    peak = matmul_flops_per_s(torch.device("cpu"), torch.float32)
    shares = {
        t.name: useful_flops(policies.config, policies.lora, t.counts) / statistics.median(t.seconds[OURS]) / peak
        for t in times
    }
    print(f"\nuseful FLOPs of ours, as a share of one thread's float32 matrix product ({peak / 1e9:.0f} GFLOP/s):")
    print("  " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    return {name: round(share, 3) for name, share in shares.items()}


def _measure_memory(figures: dict[str, object]) -> list[Bar]:
    say("memory")
    at_once = measure_memory(small_config(), SHAPES["A"], naive_rows_at_once=None)
    wide = measure_memory(small_config(LARGE_VOCAB), SHAPES["A"], naive_rows_at_once=8)
    figures["memory_bytes"] = {"one_group_one_micro_batch": at_once, "one_group_8_rows_32k_vocabulary": wide}
    for title, peaks in (("one micro-batch", at_once), (f"rows by 8, vocabulary {LARGE_VOCAB}", wide)):
        print(f"\npeak memory above the model, one group of A, {title}:")
        for name, peak in peaks.items():
            print(f"  {name:10}{peak / 2**20:>9.0f} MiB{peaks[NAIVE] / peak:>8.1f} × less than a")
    return [
        Bar("memory: one group at once, times less than a", at_once[NAIVE] / at_once[OURS], 9),
        Bar(f"memory: a by 8 rows at V = {LARGE_VOCAB}, times less", wide[NAIVE] / wide[OURS], 6),
    ]


def _measure_checkpoints(figures: dict[str, object]) -> list[Bar]:
    say("checkpoint")
    seconds, num_bytes = checkpoint_write(rank=256, rounds=25)
    slower = {name: ratio(seconds[name], seconds["copy"]) for name in ("save", "publish")}
    figures["checkpoint"] = {
        "bytes": num_bytes,
        "seconds": {name: round(statistics.median(of), 4) for name, of in seconds.items()},
        "times_a_copy": {name: {k: round(v, 3) for k, v in of.items()} for name, of in slower.items()},
    }
    print(f"\ncheckpoint of {num_bytes / 2**20:.0f} MiB, safe on the disk:")
    for name, of in seconds.items():
        print(f"  {name:10}{statistics.median(of) * 1e3:>8.0f} ms  ({min(of) * 1e3:.0f}–{max(of) * 1e3:.0f})")
    return [Bar("checkpoint: times a copy of its files", slower["save"]["median"], 1.5, at_least=False)]


def _measure_big_bases() -> dict[str, dict[str, float]]:
    measured: dict[str, dict[str, float]] = {}
    for name, shape in BIG_BASES.items():
        say(name)
        figures = measure_base(Qwen3Config(**shape), SHAPES["A"], device="cuda", dtype=torch.bfloat16)
        measured[name] = {key: round(figure, 4) for key, figure in figures.items()}
        print(f"\n{name}, batch A: " + ", ".join(f"{key} {figure}" for key, figure in measured[name].items()))
    return measured


if __name__ == "__main__":
    sys.exit(main())
