"""How many samplers a demand wants. Apart from `store.planes.sampler_demand`, for settings need no database."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """`idle_s`: for so long after the last sign of use a base wants one sampler; 0: always. `target`: sequences that
    one sampler shall work on."""

    idle_s: float
    target: int
