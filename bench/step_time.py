"""One batch through every variant: seconds, tokens computed, and proof that the gradient is the same."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from bench import baselines, block_diagonal
from bench.baselines import Step, gradients, padded_tokens, worst_relative_error
from bench.batches import Shape, TokenCounts, count_tokens
from bench.clock import alternate, ratio, say, step_seconds
from bench.policies import Gradients, Policies
from bench.rows import merged_rows, turn_rows
from bench.trl_path import trl_step
from wire.trajectories import Batch

NAIVE, MERGED, PACKED, TRL, OURS = "a naive", "b merged", "c packed", "trl", "ours"
MAX_GRADIENT_ERROR = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class StepTimes:
    """seconds: by variant, one entry a round. pair: PACKED and OURS again, in rounds of their own, since their ratio
    is held to 3 %. gradient_errors: against NAIVE, worst LoRA tensor. tokens: what each variant computes."""

    name: str
    counts: TokenCounts
    tokens: Mapping[str, int]
    seconds: Mapping[str, list[float]]
    pair: Mapping[str, list[float]]
    gradient_errors: Mapping[str, float]

    def times_faster(self, than: str) -> dict[str, float]:
        """Than a variant, as median, least and most over the rounds."""
        measured = self.pair if than == PACKED else self.seconds
        return ratio(measured[than], measured[OURS])

    def to_json(self) -> dict[str, object]:
        """For the JSON line."""
        return {
            "unique_tokens": self.counts.unique,
            "action_tokens": self.counts.actions,
            "variants": {
                name: {
                    "tokens": self.tokens[name],
                    "seconds": _spread(self.seconds[name]),
                    "gradient_error": self.gradient_errors[name],
                    "ours_times_faster": _rounded(self.times_faster(name)),
                }
                for name in self.seconds
            },
        }

    def table(self) -> str:
        """One line a variant."""
        lines = [f"batch {self.name}: {self.counts.unique} unique tokens, {self.counts.actions} sampled"]
        lines += [f"{'':12}{'tokens':>9}{'seconds':>10}{'(least–most)':>16}{'ours is':>10}{'gradient error':>17}"]
        for name, seconds in self.seconds.items():
            spread, faster = f"({min(seconds):.2f}–{max(seconds):.2f})", self.times_faster(name)["median"]
            lines.append(
                f"{name:12}{self.tokens[name]:>9}{statistics.median(seconds):>10.2f}{spread:>16}"
                f"{faster:>9.2f}×{self.gradient_errors[name]:>17.1e}"
            )
        return "\n".join(lines)


def measure_steps(name: str, shape: Shape, policies: Policies, rounds: int, pair_rounds: int) -> StepTimes:
    """Gradients first, which warms everything up, then seconds."""
    say(f"batch {name}: gradients")
    batch = policies.batch(shape, seed=0)
    steps, found = _baselines(policies, batch)
    found[OURS], steps[OURS] = policies.our_gradients(batch), lambda: policies.ours(batch)
    errors = {variant: worst_relative_error(of, found[NAIVE]) for variant, of in found.items()}
    return StepTimes(
        name=name,
        counts=count_tokens(batch),
        tokens=_tokens(batch, count_tokens(batch)),
        seconds=alternate(steps, rounds, step_seconds),
        pair=alternate({variant: steps[variant] for variant in (PACKED, OURS)}, pair_rounds, step_seconds),
        gradient_errors=errors,
    )


def _baselines(policies: Policies, batch: Batch) -> tuple[dict[str, Step], dict[str, Gradients]]:
    block_diagonal.register()
    make: dict[str, tuple[str, Callable[..., Step]]] = {
        NAIVE: ("sdpa", baselines.a_row_a_turn),
        MERGED: ("sdpa", baselines.merged),
        PACKED: (block_diagonal.IMPLEMENTATION, baselines.packed),
        TRL: ("sdpa", trl_step),
    }
    steps, found = {}, {}
    for name, (attention, of) in make.items():
        policy = policies.stock(attention)
        steps[name] = of(policy, batch)
        found[name] = gradients(policy, steps[name])
    return steps, found


def _tokens(batch: Batch, counts: TokenCounts) -> dict[str, int]:
    a_turn, merged = turn_rows(batch, torch.device("cpu")), merged_rows(batch, torch.device("cpu"))
    naive = padded_tokens(a_turn)
    return {
        NAIVE: naive,
        MERGED: padded_tokens(merged),
        PACKED: sum(len(row.ids_T) - 1 for row in merged),
        TRL: padded_tokens(a_turn),
        OURS: counts.unique,
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    return _rounded({"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)})


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(figure, 3) for name, figure in figures.items()}
