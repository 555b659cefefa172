"""The port of a target, and what of a step goes there."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Protocol

from store.history import CommittedStep, TrainedModel

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class Target(Protocol):
    """Somewhere that figures are copied to; each model is a run of its own."""

    def num_written(self, model: TrainedModel) -> int:
        """How many of the model's steps are there already, also those that an earlier process wrote."""
        ...

    def write(self, model: TrainedModel, steps: Sequence[CommittedStep]) -> None:
        """Add these, which follow what is there. They are there to stay when this returns."""
        ...

    def close(self) -> None:
        """End."""
        ...


def figures(step: CommittedStep) -> dict[str, float]:
    """The step's metrics by the names of docs/metrics.md, and beside them where it stands in the tree."""
    beside = {
        "learning_rate": step.learning_rate,
        "num_traces": step.num_traces,
        "num_tokens": step.num_tokens,
        "tree_step": step.tree_step,
    }
    values = {**step.metrics, **{name: value for name, value in beside.items() if value is not None}}
    return {name: float(value) for name, value in values.items() if math.isfinite(float(value))}


def run_name(model: TrainedModel) -> str:
    """A name for people that is safe as a file's, and one model's alone."""
    return f"{_UNSAFE.sub('_', model.slug).lstrip('.')[:60]}-{model.id.hex[:8]}"
