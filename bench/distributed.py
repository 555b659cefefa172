"""The engine on two ranks against one, at the same total work: tokens a second, bytes and seconds of each collective.

Ranks are processes of this machine with one thread each, on gloo; one rank is the engine of one process, which sends
nothing. Both compute the same plan of the same batches on the same random base, and have to end in the same bits. What
is measured is how work divides, so base and batch are large enough that gathers of weights are a small part; how large
that part is, is printed.

Then a model of cost (`bench.pass_cost`) is held against the runs. It knows what this machine does in a second from
other measurements: FLOP/s from one rank on another batch, bandwidths from bare collectives. What it says of bases on
H200s is a calculation from assumptions that are printed with it.

It takes some minutes of both cores, which nothing else should use. Progress goes to stderr, tables and one JSON line to
stdout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config

from bench.bars import Bar
from bench.batches import Shape, count_tokens, random_batch
from bench.clock import say
from bench.distributed_rank import SETTINGS, Job
from bench.figures import write_figures
from bench.models import build_model
from bench.pass_cost import H200, Machine, PassCost, TurnWork, even_work, pass_cost, work_of
from cli.sizing.base_counts import BaseCounts
from cli.sizing.counting import count_base, count_preset
from trainer.distributed.launch import launch
from trainer.engine.base_model import load_base_model
from trainer.engine.engine import TrainingEngine
from wire.conversion import to_datums

RANK = 16
OTHER, MEASURED = "other", "measured"
SHAPES = {
    OTHER: Shape(8, 4, 1, prompt=(128, 129), output=(96, 97)),
    MEASURED: Shape(8, 8, 2, prompt=(256, 385), output=(64, 97), observation=(16, 33)),
}
ON_H200 = (("qwen3-8b", (1, 4, 8)), ("qwen3-32b", (4, 8)), ("llama-3.3-70b", (4, 8)))
_H200_RANK, _H200_PASS_TOKENS, _H200_LENGTH, _H200_PASSES = 32, 16384, 4096, 8
H200_TOKENS = _H200_PASSES * _H200_PASS_TOKENS
_GRACE_S = 10.0


def base_config() -> Qwen3Config:
    """19 million weights in six layers."""
    return Qwen3Config(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What a group of ranks found. seconds: of each pass, by batch; gradients: a digest of what it accumulated."""

    seconds: Mapping[str, list[float]]
    gradients: Mapping[str, str]
    ranks: list[dict[str, Any]]
    speeds: Mapping[str, float]

    def median_s(self, batch: str) -> float:
        """Of a pass over this batch."""
        return statistics.median(self.seconds[batch])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="passes over each batch, after a warm-up")
    options = parser.parse_args()
    return measure(base_config(), SHAPES, options.rounds)


def measure(config: Qwen3Config, shapes: Mapping[str, Shape], rounds: int) -> int:
    """Measure, print, and return the exit status: 1 if the bits differ."""
    with tempfile.TemporaryDirectory() as folder:
        build_model(config).save_pretrained(folder)
        job = Job(folder, RANK, dict(shapes), rounds, str(Path(folder) / "found.json"))
        runs = {size: run_ranks(job, size) for size in (1, 2)}
        works = {name: {size: _work(folder, shape, size) for size in (1, 2)} for name, shape in shapes.items()}
    counts = count_base("the base", config, RANK, torch.float32)
    equal = runs[1].gradients == runs[2].gradients
    machine = _machine(counts, works[OTHER][1], runs)
    figures = {
        "rates": _print_rates(config, shapes, runs),
        "collectives": _print_collectives(counts, works, runs[2]),
        "machine": asdict(machine),
        "cpu_s": {str(size): [round(rank["cpu_s"], 2) for rank in run.ranks] for size, run in runs.items()},
    }
    bars = [_faster(config, shapes, runs), *_predictions(counts, works, runs, machine)]
    print("\n" + "\n".join(bar.line() for bar in bars))
    print("gradients of one rank and of two are equal to the bit" if equal else "GRADIENTS DIFFER")
    figures["h200"] = print_h200()
    about = {"parameters": counts.num_parameters}
    write_figures("distributed", {**about, **figures, "equal_bits": equal, "bars": [bar.to_json() for bar in bars]})
    return 0 if equal else 1


def run_ranks(job: Job, size: int) -> Run:
    """Start so many, one by itself or a group as a trainer's, and wait for them."""
    say(f"{size} rank{'s' if size > 1 else ''}")
    command = [sys.executable, "-m", "bench.distributed_rank", job.to_json()]
    if size == 1:
        subprocess.run(command, check=True)
    else:
        launch(size, _GRACE_S, command)
    found = json.loads(Path(job.out).read_text())
    batches, ranks = found.pop("batches"), found.pop("ranks")
    return Run(
        seconds={name: batch["seconds"] for name, batch in batches.items()},
        gradients={name: batch["gradient"] for name, batch in batches.items()},
        ranks=ranks,
        speeds=found,
    )


def _work(folder: str, shape: Shape, ranks: int) -> tuple[list[list[TurnWork]], int]:
    """What each rank does in each turn, and in how many shards."""
    engine = TrainingEngine(load_base_model(folder), SETTINGS)
    datums = to_datums(random_batch(shape, engine.info.vocab_size, 0))
    plan = engine.plan(datums)
    return work_of(plan, datums, ranks), len(plan.shards)


def _machine(counts: BaseCounts, work: tuple[list[list[TurnWork]], int], runs: Mapping[int, Run]) -> Machine:
    """FLOP/s of one rank on the other batch; on a CPU a rank has one thread to compute and to receive."""
    unit = Machine(1.0, 1.0, 1.0, overlaps=False)
    flops = pass_cost(counts, RANK, *work, unit, recompute=False).seconds
    return Machine(flops / runs[1].median_s(OTHER), **runs[2].speeds, overlaps=False)


def _rate(config: Qwen3Config, shape: Shape, seconds: float) -> float:
    return count_tokens(random_batch(shape, config.vocab_size, 0)).unique / seconds


def _print_rates(
    config: Qwen3Config, shapes: Mapping[str, Shape], runs: Mapping[int, Run]
) -> dict[str, dict[str, float]]:
    print(f"{'batch':10}{'ranks':>6}{'seconds':>10}{'(least–most)':>16}{'tokens/s':>10}{'waited for weights':>20}")
    rates: dict[str, dict[str, float]] = {}
    for name, shape in shapes.items():
        for size, run in runs.items():
            seconds, rate = run.seconds[name], _rate(config, shape, run.median_s(name))
            rates.setdefault(name, {})[str(size)] = round(rate, 1)
            spread = f"({min(seconds):.2f}–{max(seconds):.2f})"
            share = run.ranks[0]["gather_waited_s"] / _mean(second for of in run.seconds.values() for second in of)
            print(f"{name:10}{size:>6}{run.median_s(name):>10.2f}{spread:>16}{rate:>10.0f}{share:>19.1%}")
    return rates


def _print_collectives(
    counts: BaseCounts, works: Mapping[str, Mapping[int, tuple[list[list[TurnWork]], int]]], run: Run
) -> dict[str, Any]:
    """Of a rank and pass, the mean over all."""
    least = {"weights": 0.0, "all_to_all_single": 0.0, "all_gather": 0.0}
    slices = 4 * counts.lora_parameters(RANK) / 2
    for work, num_shards in (of_sizes[2] for of_sizes in works.values()):
        cost = pass_cost(counts, RANK, work, num_shards, H200, recompute=False)
        least["weights"] += cost.gathered_bytes / len(works)
        least["all_gather"] += slices / len(works)
        least["all_to_all_single"] += (cost.exchanged_bytes - slices) / len(works)
    names = sorted({name for rank in run.ranks for name in rank["collectives"]})
    found: dict[str, Any] = {}
    print(f"\n{'a rank, a pass':22}{'calls':>8}{'received':>14}{'least possible':>16}{'seconds':>10}")
    for name in names:
        of_ranks = [rank["collectives"].get(name, {}) for rank in run.ranks]
        each = {what: _mean(of.get(what, 0.0) for of in of_ranks) for what in ("number", "received_bytes", "seconds")}
        if name == "weights":
            each["seconds"] = each["received_bytes"] / run.speeds["gather_bytes_per_s"]
        found[name] = {**each, "least_bytes": least.get(name, 0.0)}
        print(
            f"{name:22}{each['number']:>8.1f}{each['received_bytes']:>14,.0f}{least.get(name, 0.0):>16,.0f}"
            f"{each['seconds']:>10.3f}"
        )
    by_themselves_s, waited_s = found["weights"]["seconds"], _mean(rank["gather_waited_s"] for rank in run.ranks)
    found["gathers_overlapped"] = round(max(0.0, 1 - waited_s / by_themselves_s), 3)
    print(
        f"gathers of weights take {by_themselves_s:.3f} s alone; a pass waits for {waited_s:.3f} s of that, and "
        f"computes meanwhile in {found['gathers_overlapped']:.0%}"
    )
    return found


def _mean(figures: Iterable[float]) -> float:
    return statistics.fmean(figures)


def _faster(config: Qwen3Config, shapes: Mapping[str, Shape], runs: Mapping[int, Run]) -> Bar:
    ratio = runs[1].median_s(MEASURED) / runs[2].median_s(MEASURED)
    batch = count_tokens(random_batch(shapes[MEASURED], config.vocab_size, 0))
    return Bar(f"two ranks: times the tokens/s of one, {batch.unique} tokens", ratio, 1.7)


def _predictions(
    counts: BaseCounts,
    works: Mapping[str, Mapping[int, tuple[list[list[TurnWork]], int]]],
    runs: Mapping[int, Run],
    machine: Machine,
) -> list[Bar]:
    bars: list[Bar] = []
    for name, size in ((MEASURED, 1), (OTHER, 2), (MEASURED, 2)):
        predicted = pass_cost(counts, RANK, *works[name][size], machine, recompute=False).seconds
        off = abs(predicted / runs[size].median_s(name) - 1)
        bars.append(Bar(f"the model is off by, {name}, ranks: {size}", off, 0.2, at_least=False))
    return bars


def print_h200() -> list[dict[str, Any]]:
    """What the model says of known bases: a calculation."""
    print(
        f"\ncalculated, not measured: H200s at {H200.flops_per_s / 1e12:.0f} TFLOP/s, NVLink at "
        f"{H200.gather_bytes_per_s / 1e9:.0f} GB/s; {_H200_PASSES} passes of {_H200_PASS_TOKENS:,} tokens in sequences "
        f"of {_H200_LENGTH:,}, all scored, layers computed twice, LoRA of rank {_H200_RANK}"
    )
    print(
        f"{'base':16}{'GPUs':>6}{'seconds':>10}{'tokens/s':>10}{'gathers waited for':>20}{'exchange':>10}{'votes':>8}"
    )
    found: list[dict[str, Any]] = []
    for name, sizes in ON_H200:
        counts = count_preset(name, _H200_RANK)
        for size in sizes:
            cost = on_h200(counts, size)
            rate = H200_TOKENS / cost.seconds
            shares = [part / cost.seconds for part in (cost.gather_s, cost.exchange_s, cost.vote_s)]
            print(
                f"{name:16}{size:>6}{cost.seconds:>10.1f}{rate:>10,.0f}{shares[0]:>21.2%}{shares[1]:>10.2%}{shares[2]:>8.2%}"
            )
            found.append({"base": name, "gpus": size, "tokens_per_s": round(rate), **asdict(cost)})
    return found


def on_h200(counts: BaseCounts, size: int) -> PassCost:
    """Of a batch of `H200_TOKENS` on so many GPUs."""
    work = even_work(_H200_PASS_TOKENS, _H200_LENGTH, _H200_PASSES // size, size)
    return pass_cost(counts, _H200_RANK, work, _H200_PASSES, H200, recompute=True)


if __name__ == "__main__":
    sys.exit(main())
