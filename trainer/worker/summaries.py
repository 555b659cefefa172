"""What a checkpoint row says about the gradients that made it: sums and means over the passes of one step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wire.engine import AdamParams, PassResult, StepResult

_LOGGED = (
    "loss:sum",
    "reward_mean",
    "groups_without_spread",
    "kl_sampling_trainer:mean",
    "ratio:max",
    "clip_fraction:mean",
    "entropy:mean",
    "tokens:sum",
    "tokens_computed:sum",
    "seconds:sum",
    "tokens_per_s",
    "grad_norm",
    "update_norm",
    "fresh_moments",
)


def logged_figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """What of a pass or step belongs in its log line."""
    return {name: float(f"{metrics[name]:.5g}") for name in _LOGGED if name in metrics}


def summarise_pass(result: PassResult, metrics: dict[str, float], num_traces: int, loss_fn: str) -> dict[str, Any]:
    """What the op log keeps of a gradient pass until a step adds it up."""
    return {
        "metrics": _finite(metrics),
        "num_datums": result.num_datums,
        "num_tokens": result.num_tokens,
        "num_traces": num_traces,
        "loss_fn": loss_fn,
    }


def summarise_step(summaries: Sequence[Mapping[str, Any]], stepped: StepResult, adam: AdamParams) -> dict[str, Any]:
    """The columns of the new checkpoint: counts are sums, rewards are means over trajectories.

    Metrics: of the passes `:sum` adds, `:min`/`:max` keep the extreme, all others average over trajectories; the
    step's own come on top.
    """
    metrics = _merge([(s["metrics"], s["num_traces"]) for s in summaries])
    return {
        "num_traces": sum(s["num_traces"] for s in summaries),
        "num_datums": sum(s["num_datums"] for s in summaries),
        "num_tokens": sum(s["num_tokens"] for s in summaries),
        "mean_reward": metrics.get("reward_mean"),
        "learning_rate": adam.learning_rate,
        "loss_fn": ",".join(dict.fromkeys(s["loss_fn"] for s in summaries)),
        "metrics": {**metrics, **_finite(stepped.metrics)},
    }


def _merge(passes: Sequence[tuple[dict[str, float], int]]) -> dict[str, float]:
    names = dict.fromkeys(name for metrics, _ in passes for name in metrics)
    return {name: _merge_one(name, [(m[name], n) for m, n in passes if name in m]) for name in names}


def _merge_one(name: str, values: Sequence[tuple[float, int]]) -> float:
    if name.endswith((":sum", "_sum")):
        return sum(v for v, _ in values)
    if name.endswith((":min", "_min")):
        return min(v for v, _ in values)
    if name.endswith((":max", "_max")):
        return max(v for v, _ in values)
    return sum(v * n for v, n in values) / sum(n for _, n in values)


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
