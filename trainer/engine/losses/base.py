"""What a loss is: a frozen dataclass of its hyperparameters that turns action tokens into costs.

The cost C is a sum, never a mean, over the action tokens of all datums. The engine takes −dC/dlogprobs from autograd
and carries it through the model, as it does with weights that a client sent.
"""

# N action tokens of a micro-batch, datum by datum

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, cast

import torch

from trainer.engine.losses.options import LossOptions
from wire.errors import InvalidRequest


@dataclass(frozen=True, slots=True, eq=False)
class ActionTokens:
    """A micro-batch as a loss sees it.

    logprobs_N, sampling_logprobs_N, advantages_N: nats, nats and the advantage of the token's trajectory; float32
    (float64 for a float64 model). Gradient is taken with respect to logprobs_N only. sequences_N: int64, which datum
    of the micro-batch a token belongs to, 0 to num_sequences − 1; a datum is never split between micro-batches, so a
    loss may reduce over it. in_ratio_N: bool, which of a sequence's tokens such a reduction counts; None for all.
    """

    logprobs_N: torch.Tensor
    sampling_logprobs_N: torch.Tensor
    advantages_N: torch.Tensor
    sequences_N: torch.Tensor
    num_sequences: int
    in_ratio_N: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """costs_N sum to C. clipped_N (bool, or None where a loss never clips) marks tokens whose weight is bounded."""

    costs_N: torch.Tensor
    clipped_N: torch.Tensor | None = None


class Loss(ABC):
    """A built-in loss: a frozen dataclass whose fields are its hyperparameters, floats with a default each.

    sampling_logprobs_optional: turns may come without any. scores_several: a position may have several targets, each
    of which is a token to it. follows_advantages: a token whose advantage is 0 has a gradient of exactly 0, whatever
    its logprobs. shorthands: keys that `from_known` expands to fields.
    """

    sampling_logprobs_optional: ClassVar[bool] = False
    scores_several: ClassVar[bool] = False
    follows_advantages: ClassVar[bool] = True
    shorthands: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def __call__(self, tokens: ActionTokens) -> Costs:
        """Costs that sum to C, differentiable in tokens.logprobs_N."""

    @classmethod
    def from_config(cls, config: Mapping[str, float]) -> Self:
        """Raises InvalidRequest for an unknown key or a value that is not finite."""
        known = list(cls.defaults())
        for key, value in config.items():
            if key not in known:
                raise InvalidRequest(f"unknown loss_fn_config key {key!r}: {_known(known)}")
            if not math.isfinite(value):
                raise InvalidRequest(f"loss_fn_config {key} is {value}: it must be finite")
        return cls.from_known(config)

    @classmethod
    def from_known(cls, config: Mapping[str, float]) -> Self:
        """The loss, from keys and values that passed; the place to expand a shorthand."""
        return cls(**config)

    @classmethod
    def defaults(cls) -> dict[str, float | None]:
        """Every key with its default; None for a shorthand, which has none of its own."""
        own = {field.name: cast(float, field.default) for field in fields(cast(Any, cls))}
        return {**own, **dict.fromkeys(cls.shorthands)}


def check_clip_range(low: float, high: float) -> None:
    """Raises InvalidRequest unless 0 ≤ low ≤ high."""
    if not 0 <= low <= high:
        raise InvalidRequest(
            f"clip_low_threshold {low} and clip_high_threshold {high}: they bound a ratio, so 0 <= low <= high"
        )


def log_ratios(tokens: ActionTokens) -> torch.Tensor:
    """π − q, and 0 where the advantage is 0: such a token must weigh nothing even if its ratio overflows."""
    return torch.where(tokens.advantages_N == 0, 0.0, tokens.logprobs_N - tokens.sampling_logprobs_N)


def _known(keys: list[str]) -> str:
    own = f"this loss knows {', '.join(keys)}" if keys else "this loss has no hyperparameters of its own"
    return f"{own}; every loss knows {', '.join(LossOptions.defaults())}"
