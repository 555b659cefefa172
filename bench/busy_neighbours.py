"""What busy neighbours cost a training pass on a CPU, by how OpenMP's threads wait for one another.

Two processes with the same random base of 135M parameters (SmolLM2's shape), all cores and the same batch: in one the
threads spin at barriers, as torch has it by default, in the other they sleep (`OMP_WAIT_POLICY=passive`, as every
`headway` command has it). Their passes are alternated, alone and beside as many endless loops as there are cores. On a
machine where others work too only the ratios mean anything, and "alone" is not alone: the load average goes along.
`python -m bench.busy_neighbours`; prints a table, then one JSON line; fails if a pass whose threads sleep takes more
than 2.5 times as long beside the loops.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.bars import Bar
from bench.busy_loops import busy_loops
from bench.figures import write_figures

SPINNING, SLEEPING = "threads spin", "threads sleep"
ALONE, BESIDE_LOOPS = "alone", "beside loops"
MOST_TIMES_ALONE = 2.5
_OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
_POLICIES = {SPINNING: {}, SLEEPING: {"OMP_WAIT_POLICY": "passive"}}

Rounds = dict[str, list[float]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=30, help="of the base; fewer are faster and less telling")
    parser.add_argument("--loops", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="file for the figures")
    parser.add_argument("--trainee", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trainee:
        trainee(options.layers)
        return 0
    with ExitStack() as stack:
        trainees = {name: stack.enter_context(_started(name, options.layers)) for name in _POLICIES}
        found = {ALONE: _alternated(trainees, options.rounds)}
        stack.enter_context(busy_loops(options.loops))
        found[BESIDE_LOOPS] = _alternated(trainees, options.rounds)
    return _report(found, options)


def trainee(num_layers: int) -> None:
    """Reads a line, does a pass, writes its seconds."""
    import time
    from uuid import UUID

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from bench.batches import Shape, random_batch
    from trainer.engine.base_model import BaseModel
    from trainer.engine.engine import TrainingEngine
    from wire.conversion import to_datums
    from wire.engine import LoraConfig, LossChoice

    torch.manual_seed(0)
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    config = LlamaConfig(vocab_size=49152, num_hidden_layers=num_layers, tie_word_embeddings=True, **shape)
    engine, model = TrainingEngine(BaseModel(LlamaForCausalLM(config))), UUID(int=1)
    engine.open(model, LoraConfig(rank=16), None, None)
    datums = to_datums(random_batch(Shape(1, 4, 1, prompt=(64, 65), output=(32, 65)), config.vocab_size, seed=0))
    for _ in itertools.chain(["warm-up"], sys.stdin):
        started = time.perf_counter()
        engine.forward_backward(model, datums, LossChoice("importance_sampling"))
        print(time.perf_counter() - started, flush=True)


@contextmanager
def _started(name: str, num_layers: int) -> Generator[subprocess.Popen[str]]:
    clean = {key: value for key, value in os.environ.items() if key not in _OPENMP}
    command = [sys.executable, "-m", "bench.busy_neighbours", "--trainee", "--layers", str(num_layers)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=clean | _POLICIES[name], **pipes) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline(), f"{name}: no first pass"
        yield process
        process.stdin.close()


def _alternated(trainees: dict[str, subprocess.Popen[str]], num_rounds: int) -> Rounds:
    """Seconds of each one's passes; every second round goes backwards."""
    seconds: Rounds = {name: [] for name in trainees}
    for index in range(num_rounds):
        for name in list(trainees)[:: 1 if index % 2 == 0 else -1]:
            pipe = trainees[name]
            assert pipe.stdin
            assert pipe.stdout
            print(file=pipe.stdin, flush=True)
            seconds[name].append(float(pipe.stdout.readline()))
            print(f"  round {index + 1}/{num_rounds} {name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return seconds


def _report(found: dict[str, Rounds], options: argparse.Namespace) -> int:
    row: dict[str, object] = {
        "layers": options.layers,
        "loops": options.loops,
    }
    print(f"{'':16}{SPINNING:>16}{SLEEPING:>16}{'ratio (least–most)':>26}")
    for where, seconds in found.items():
        ratios = [spins / sleeps for spins, sleeps in zip(seconds[SPINNING], seconds[SLEEPING], strict=True)]
        spins, sleeps = (statistics.median(seconds[name]) for name in (SPINNING, SLEEPING))
        spread = f"{statistics.median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})"
        print(f"{where:16}{spins:14.2f} s{sleeps:14.2f} s{spread:>26}")
        rounded = {name: [round(value, 2) for value in values] for name, values in seconds.items()}
        row[where] = {**rounded, "times_slower_when_spinning": round(statistics.median(ratios), 2)}
    bar = Bar("beside loops, threads sleep: times alone", _times_alone(found), MOST_TIMES_ALONE, at_least=False)
    print(bar.line())
    write_figures("busy_neighbours", row | {"bars": [bar.to_json()]}, options.out)
    return 0 if bar.passed else 1


def _times_alone(found: dict[str, Rounds]) -> float:
    """Of the medians: no round is beside loops and alone."""
    alone, beside = (statistics.median(found[where][SLEEPING]) for where in (ALONE, BESIDE_LOOPS))
    return beside / alone


if __name__ == "__main__":
    sys.exit(main())
