"""Settings of a service whose samplers come and go with what is asked of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from store.planes.promotion_policy import PATIENCE_S
from store.planes.scaling_policy import REPORTED_EVERY_S, ScalingPolicy
from wire.process.options import Option


class WithoutSampler(StrEnum):
    """What becomes of a request while no sampler of its base lives."""

    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class ElasticSettings:
    """How many samplers a base wants, and what becomes of requests until the first has started."""

    idle_s: Annotated[
        float,
        Option(
            "Seconds after the last sign of use for which a base wants a sampler; 0: always one",
            "HEADWAY_SAMPLER_IDLE_S",
            "--sampler-idle-s",
            minimum=0.0,
        ),
    ] = 0.0
    target: Annotated[
        int,
        Option(
            "Sequences that one sampler shall work on; a base with more wants another",
            "HEADWAY_SAMPLER_TARGET",
            "--sampler-target",
            minimum=1,
        ),
    ] = 32
    without: Annotated[
        WithoutSampler,
        Option(
            "While no sampler of its base lives, a request waits, or is refused at once: wait or refuse",
            "HEADWAY_WITHOUT_SAMPLER",
            "--without-sampler",
        ),
    ] = WithoutSampler.WAIT
    wait_s: Annotated[
        float | None,
        Option(
            "Seconds that a request waits while no sampler of its base lives; then it gets a 503",
            "HEADWAY_SAMPLER_WAIT_S",
            "--sampler-wait-s",
            minimum=0.0,
            shown_default=f"{PATIENCE_S:.0f}",
        ),
    ] = None
    """None: as long as for one that lives (`Timeouts.samplers_s`)."""
    reported_every_s: float = REPORTED_EVERY_S
    """How often a process writes what a base is asked, while that changes."""

    @property
    def policy(self) -> ScalingPolicy:
        """How many samplers a demand wants."""
        return ScalingPolicy(self.idle_s, self.target)
