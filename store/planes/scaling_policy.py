"""How many samplers a demand wants. Apart from `store.planes.sampler_demand`, for settings need no database."""

from __future__ import annotations

from dataclasses import dataclass

REPORTED_EVERY_S = 5.0
"""Between two reports of what is asked of a base, by a server process that has requests of it under way."""


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """`idle_s`: for so long after the last sign of use a base wants one sampler; 0: always. `target`: sequences that
    one sampler shall work on."""

    idle_s: float
    target: int
