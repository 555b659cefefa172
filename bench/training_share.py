"""Passes of a real base: seconds beside TRL's loss, and the share of the matrix product that both planes turn into
useful work."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from bench.baselines import gradients, worst_relative_error
from bench.batches import Shape, TokenCounts, count_tokens
from bench.clock import alternate, wall_s
from bench.flops import useful_flops
from bench.policies import Policies
from bench.trl_path import trl_step

OURS, TRL = "headway", "trl"
MAX_GRADIENT_ERROR = 1e-3
_PLAIN = None, "none", [], ""


@dataclass(frozen=True, slots=True)
class Passes:
    """Wall seconds by who computes a pass, an entry a round, and FLOPs that it cannot do without."""

    seconds: Mapping[str, list[float]]
    counts: TokenCounts
    flops: float

    def share(self, peak_flops_per_s: float) -> float:
        """Of the peak that our pass reaches."""
        return self.flops / statistics.median(self.seconds[OURS]) / peak_flops_per_s


def measure_passes(policies: Policies, shape: Shape, rounds: int) -> Passes:
    """Raises AssertionError if the gradients differ."""
    batch = policies.batch(shape, seed=0)
    stock = policies.stock()
    steps: dict[str, Callable[[], None]] = {OURS: lambda: policies.ours(batch), TRL: trl_step(stock, batch)}
    error = worst_relative_error(policies.our_gradients(batch), gradients(stock, steps[TRL]))
    assert error <= MAX_GRADIENT_ERROR, f"gradients differ by {error:.1e}"
    counts = count_tokens(batch)
    flops = useful_flops(policies.config, policies.lora, counts)
    return Passes(alternate(steps, rounds, wall_s), counts, flops)


def peak_flops_per_s() -> dict[str, float]:
    """Of a large float32 product on all threads, by wall clock, the best of some, through each library that torch has:
    MKL, which every `matmul` goes through, and oneDNN, which on other processors than Intel's is faster."""
    size = 2048
    one, other = torch.randn(size, size), torch.randn(size, size)
    ways = {"mkl": lambda: one @ other.T, "onednn": lambda: torch.ops.mkldnn._linear_pointwise(one, other, *_PLAIN)}
    with torch.inference_mode():
        return {name: 2 * size**3 / min(wall_s(way) for _ in range(8)) for name, way in ways.items()}
