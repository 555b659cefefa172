"""Proximal policy optimisation: no reward for moving a ratio out of its range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from trainer.engine.losses.base import ActionTokens, Costs, Loss, check_clip_range, log_ratios
from trainer.engine.losses.surrogate import clipped_surrogate
from wire.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class PPO(Loss):
    """C = −Σ min(r_t A_t, clip(r_t, low, high) A_t) over action tokens (arXiv:1707.06347), r_t = exp(π_t − q_t).

    −dC/dπ_t = r_t A_t, and 0 where the clipped term is the smaller: A_t > 0 with r_t above high, or A_t < 0 with r_t
    below low. Nothing else is clipped or detached. `epsilon` e is short for the range 1 − e to 1 + e.
    """

    shorthands: ClassVar[tuple[str, ...]] = ("epsilon",)

    clip_low_threshold: float = 0.8
    clip_high_threshold: float = 1.2

    def __post_init__(self) -> None:
        check_clip_range(self.clip_low_threshold, self.clip_high_threshold)

    @classmethod
    def from_known(cls, config: Mapping[str, float]) -> Self:
        """Expands epsilon."""
        if "epsilon" not in config:
            return cls(**config)
        if len(config) > 1:
            raise InvalidRequest("epsilon is short for clip_low_threshold and clip_high_threshold: give it or them")
        if not 0 <= config["epsilon"] <= 1:
            raise InvalidRequest(f"epsilon is {config['epsilon']}: it must be from 0 to 1")
        return cls(1 - config["epsilon"], 1 + config["epsilon"])

    def __call__(self, tokens: ActionTokens) -> Costs:
        return clipped_surrogate(
            log_ratios(tokens), tokens.advantages_N, self.clip_low_threshold, self.clip_high_threshold
        )
