"""What a checkpoint row says about the gradients that made it: sums and means over the passes of one step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from store.tables import OperationRow
from wire.engine import AdamParams, PassResult, StepResult


def summarise_pass(result: PassResult, metrics: dict[str, float], num_traces: int, loss_fn: str) -> dict[str, Any]:
    """What the op log keeps of a gradient pass until a step adds it up."""
    return {
        "metrics": _finite(metrics),
        "num_datums": result.num_datums,
        "num_tokens": result.num_tokens,
        "num_traces": num_traces,
        "loss_fn": loss_fn,
    }


def summarise_step(passes: Sequence[OperationRow], stepped: StepResult, adam: AdamParams) -> dict[str, Any]:
    """The columns of the new checkpoint: counts are sums, rewards are means over trajectories.

    Metrics: of the passes `:sum` adds, `:min`/`:max` keep the extreme, all others average over trajectories; the
    step's own come on top.
    """
    summaries = [p.summary or {} for p in passes]
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
