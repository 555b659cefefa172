"""Rollouts with screenshots: the engine against a row a turn with the pixels of its whole history.

Random Qwen3-VL of 4M parameters (`bench.screen_base`), rank 16, a group of 8 rollouts of 6 turns; a screenshot is 1,000
tokens, as 1280×800 pixels are of a real one. In one process, on one thread of a CPU, variants alternated, every step
with pictures that none before it had:

    naive   PEFT and transformers as they come: a row a turn, one at a time, with the pixels of all its pictures, which
            were made before the clock ran
    ours    TrainingEngine.forward_backward, from the PNGs on: equal pictures are encoded once
    again   ours, of the batch that it has just had: a forward and its backward, or two losses of one batch

Frames are shared where all rollouts see the same screens behind other words, and own where only the first screen is
the same. Every variant's gradient is checked against naive's, and the run fails if one differs. Memory is that of half
a group at once, with screenshots of 240 tokens: naive's rows are then padded to the longest, and take 6 GB.

`python -m bench.images`: tables, bars, and one JSON line. It takes about 15 minutes; `--quick` takes half of one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import torch
from transformers import AutoImageProcessor

from bench.bars import Bar
from bench.baselines import Step, gradients, worst_relative_error
from bench.clock import alternate, ratio, say, step_seconds
from bench.figures import write_figures
from bench.memory import peak_bytes
from bench.policies import LOSS, MODEL, Policies, load_policies
from bench.screen_base import ScreenBase
from bench.screen_rows import a_row_a_turn, num_tokens
from bench.screens import ScreenBatch, Screens, screen_batch
from bench.step_time import MAX_GRADIENT_ERROR
from trainer.engine.engine import EngineSettings
from trainer.engine.heap import Heap
from wire.conversion import to_datums
from wire.engine import LoraConfig

NAIVE, OURS, AGAIN = "naive", "ours", "again"
SHAPES = {"shared frames": Screens(), "own frames": Screens(shares_frames=False)}
FASTER = {"shared frames": 4.0}
LESS_MEMORY = {"shared frames": 4.0}
LORA = LoraConfig(rank=16)
WHOLE_GROUP = EngineSettings(threads=1, max_tokens_per_pass=1 << 20, max_activation_bytes=1 << 40)
"""A pass holds any group, and computes nothing again."""


@dataclass(frozen=True, slots=True)
class Found:
    """Of one shape. seconds: by variant, one entry a round. peaks: bytes above the model, by variant, of half a
    group at once, with screenshots of a quarter of the size: naive's would not fit otherwise."""

    shape: Screens
    num_shown: int
    num_pictures: int
    tokens: dict[str, int]
    seconds: dict[str, list[float]]
    peaks: dict[str, int]
    gradient_error: float

    @property
    def times_faster(self) -> dict[str, float]:
        """Than naive: median, least and most over the rounds."""
        return ratio(self.seconds[NAIVE], self.seconds[OURS])

    @property
    def times_less(self) -> float:
        """Memory than naive."""
        return self.peaks[NAIVE] / self.peaks[OURS]

    def to_json(self) -> dict[str, object]:
        """For the JSON line."""
        return {
            "pictures_shown": self.num_shown,
            "pictures": self.num_pictures,
            "tokens": self.tokens,
            "seconds": {name: round(statistics.median(of), 3) for name, of in self.seconds.items()},
            "times_faster": {name: round(figure, 3) for name, figure in self.times_faster.items()},
            "peak_bytes": self.peaks,
            "gradient_error": self.gradient_error,
        }

    def table(self, name: str) -> str:
        """A line a variant."""
        lines = [
            f"{name}: {self.shape.group_size} rollouts × {self.shape.num_turns} screenshots of "
            f"{self.shape.num_placeholders} tokens; {self.num_pictures} pictures, shown {self.num_shown} times",
            f"{'':8}{'tokens':>9}{'seconds':>10}{'MiB':>9}",
        ]
        for variant, seconds in self.seconds.items():
            tokens, peak = self.tokens.get(variant), self.peaks.get(variant)
            told = f"{peak / 2**20:>9.0f}" if peak is not None else ""
            lines.append(f"{variant:8}{tokens or '':>9}{statistics.median(seconds):>10.2f}{told}")
        faster = "{median:.2f} ({min:.2f}–{max:.2f})".format(**self.times_faster)
        lines.append(f"ours: {faster} times faster, {self.times_less:.1f} times less memory")
        lines.append(f"gradients differ by {self.gradient_error:.1e}")
        return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rollouts of two turns each, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    Heap().keep_freed()
    if options.quick:
        shapes = {name: replace(shape, group_size=2, num_turns=2) for name, shape in SHAPES.items()}
        return run(ScreenBase(), shapes, rounds=1, out=options.out)
    return run(ScreenBase(), SHAPES, rounds=options.rounds, out=options.out)


def run(base: ScreenBase, shapes: dict[str, Screens], *, rounds: int, out: Path | None = None) -> int:
    """Measure, print, and return the exit status: 1 if a gradient differs."""
    with tempfile.TemporaryDirectory() as folder:
        weights = base.make(Path(folder) / "base")
        found = {name: _measured(name, shape, weights, rounds) for name, shape in shapes.items()}
    bars = [
        Bar(f"{name}: times faster than naive", found[name].times_faster["median"], n) for name, n in FASTER.items()
    ]
    bars += [Bar(f"{name}: times less memory", found[name].times_less, n) for name, n in LESS_MEMORY.items()]
    print("\n\n".join(each.table(name) for name, each in found.items()))
    print("\n" + "\n".join(bar.line() for bar in bars))
    wrong = [name for name, each in found.items() if not each.gradient_error <= MAX_GRADIENT_ERROR]
    print(f"gradients differ: {', '.join(wrong)}" if wrong else "gradients of all variants are equal")
    figures = {name: each.to_json() for name, each in found.items()}
    write_figures("images", {"shapes": figures, "bars": [bar.to_json() for bar in bars]}, out)
    return 1 if wrong else 0


def _measured(name: str, shape: Screens, weights: Path, rounds: int) -> Found:
    say(f"{name}: gradients")
    with tempfile.TemporaryDirectory() as folder:
        policies = load_policies(weights, Path(folder) / "policies", LORA, EngineSettings(threads=1))
        whole = load_policies(weights, Path(folder) / "whole", LORA, WHOLE_GROUP)
        stock, pixels_of = policies.stock(), AutoImageProcessor.from_pretrained(weights, backend="pil")
        first, *others = [_batch(policies, shape, seed) for seed in range(rounds + 1)]
        naive = [a_row_a_turn(stock, each, pixels_of) for each in (first, *others)]
        expected = gradients(stock, naive[0])
        error = worst_relative_error(policies.our_gradients(first.batch, first.pictures), expected)
        ours: list[Step] = [lambda each=each: policies.ours(each.batch, each.pictures) for each in others]
        steps = {NAIVE: cycle(naive[1:]), OURS: cycle(ours)}
        seconds = alternate(steps, rounds, lambda of_variant: step_seconds(next(of_variant)))
        seconds[AGAIN] = [step_seconds(ours[-1])]
        say(f"{name}: memory")
        small = _batch(whole, replace(shape.halved, group_size=max(2, shape.group_size // 2)), seed=0)
        peaks = {
            NAIVE: peak_bytes(a_row_a_turn(stock, small, pixels_of, at_once=True)),
            OURS: peak_bytes(lambda: whole.ours(small.batch, small.pictures)),
        }
        passed = policies.engine.forward_backward(MODEL, to_datums(first.batch), LOSS, pictures=first.pictures)
    return Found(
        shape=shape,
        num_shown=first.num_shown,
        num_pictures=len(first.pictures),
        tokens={NAIVE: num_tokens(first), OURS: round(passed.metrics["tokens_computed:sum"])},
        seconds=seconds,
        peaks=peaks,
        gradient_error=error,
    )


def _batch(policies: Policies, shape: Screens, seed: int) -> ScreenBatch:
    drawn = screen_batch(shape, seed)
    return replace(drawn, batch=policies.near(drawn.batch, seed, drawn.pictures))


if __name__ == "__main__":
    sys.exit(main())
