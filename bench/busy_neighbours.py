"""What busy neighbours cost a training pass on a CPU, by how OpenMP's threads wait for one another.

Three processes with the same random base of 135M parameters (SmolLM2's shape), all cores and the same batch: in one
the threads spin at barriers, as torch has it by default, in one they sleep at once (`OMP_WAIT_POLICY=passive`), and in
one they spin for a moment and then sleep, as in every `headway` command. Their passes are alternated, alone and beside
as many endless loops as there are cores. On a machine where others work too only the ratios mean anything, and "alone"
is not alone: the load average goes along. `python -m bench.busy_neighbours`; prints a table, then one JSON line; fails
unless headway's pass is alone about as quick as a spinning one, and beside the loops about as quick as a sleeping one.
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
from operator import truediv
from pathlib import Path

from bench.bars import Bar
from bench.busy_loops import busy_loops
from bench.figures import write_figures
from wire.process.threads import wait_passively

SPINNING, SLEEPING, HEADWAY = "threads spin", "threads sleep", "headway"
ALONE, BESIDE_LOOPS = "alone", "beside loops"
# Of a headway pass: the policy that is best there, and how many times its seconds are allowed.
BEST, MOST_TIMES = {ALONE: SPINNING, BESIDE_LOOPS: SLEEPING}, {ALONE: 1.15, BESIDE_LOOPS: 1.25}
_OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")

Rounds = dict[str, list[float]]


def _policies() -> dict[str, dict[str, str]]:
    of_headway: dict[str, str] = {}
    wait_passively(of_headway)
    return {SPINNING: {}, SLEEPING: {"OMP_WAIT_POLICY": "passive"}, HEADWAY: of_headway}


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
        trainees = {name: stack.enter_context(_started(options.layers, env)) for name, env in _policies().items()}
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
def _started(num_layers: int, policy: dict[str, str]) -> Generator[subprocess.Popen[str]]:
    clean = {key: value for key, value in os.environ.items() if key not in _OPENMP}
    command = [sys.executable, "-m", "bench.busy_neighbours", "--trainee", "--layers", str(num_layers)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=clean | policy, **pipes) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline(), f"{policy}: no first pass"
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
    row: dict[str, object] = {"layers": options.layers, "loops": options.loops}
    bars: list[Bar] = []
    print(f"{'':16}" + "".join(f"{name:>16}" for name in _policies()))
    for where, seconds in found.items():
        print(f"{where:16}" + "".join(f"{statistics.median(each):14.2f} s" for each in seconds.values()))
        row[where] = {name: [round(value, 2) for value in values] for name, values in seconds.items()}
        times = statistics.median(map(truediv, seconds[HEADWAY], seconds[BEST[where]]))
        bars.append(Bar(f"{where}: times as long as where {BEST[where]}", times, MOST_TIMES[where], at_least=False))
    alone, beside = (statistics.median(found[where][HEADWAY]) for where in (ALONE, BESIDE_LOOPS))
    print(f"beside loops headway takes {beside / alone:.1f} times its time alone")
    for bar in bars:
        print(bar.line())
    row["times_alone"] = round(beside / alone, 2)
    write_figures("busy_neighbours", row | {"bars": [bar.to_json() for bar in bars]}, options.out)
    return 0 if all(bar.passed for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
