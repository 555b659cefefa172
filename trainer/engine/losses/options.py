"""What any loss may be asked for: further keys of loss_fn_config, next to the loss's own."""

# S datums of a call

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self, cast

import numpy as np
import numpy.typing as npt

from wire.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class LossOptions:
    """Floats with a default each; those called a switch are 0 (off) or 1 (on).

    - `kl_penalty_coef` β adds β · (exp(b_t − π_t) − (b_t − π_t) − 1) to the cost of each action token, b_t being its
      logprob under the base model, that is with the adapter off. This is Schulman's k3 estimator of KL(π ‖ base), as
      in GRPO (arXiv:2402.03300): −d/dπ_t is β (exp(b_t − π_t) − 1). A group without spread then has a gradient too.
      It costs one more forward pass, and no second model; `kl_base:mean` reports the mean of k3. (TRL weighs the
      penalty by r_t unless its use_bias_correction_kl is off; here it never is.)
    - `advantage_std` (switch) divides each centred advantage by its group's standard deviation + 1e-4, as GRPO does.
      The deviation is the sample's (over n − 1), as in TRL; a group without spread stays exactly 0. reward_scale
      applies after the division. No effect on cross_entropy, which ignores rewards.
    - `normalize_by_tokens` (switch) divides C by the number of action tokens of the whole call.
    - `normalize_by_sequences` (switch) divides each datum's costs by its own number of action tokens, and C by the
      number of datums of the whole call: the mean over sequences of per-token means, as GRPO has it. Not together
      with `normalize_by_tokens`.

    Both divide the penalty as well, and count the call, not its micro-batches: a split changes rounding only.
    """

    kl_penalty_coef: float = 0.0
    advantage_std: float = 0.0
    normalize_by_tokens: float = 0.0
    normalize_by_sequences: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.kl_penalty_coef < math.inf:
            raise InvalidRequest(f"kl_penalty_coef is {self.kl_penalty_coef}: it must be finite and 0 or more")
        for name in ("advantage_std", "normalize_by_tokens", "normalize_by_sequences"):
            if getattr(self, name) not in (0, 1):
                raise InvalidRequest(f"{name} is {getattr(self, name)}: it must be 0 (off) or 1 (on)")
        if self.normalize_by_tokens and self.normalize_by_sequences:
            raise InvalidRequest("normalize_by_tokens and normalize_by_sequences exclude each other: give one of them")

    @classmethod
    def from_config(cls, config: Mapping[str, float]) -> Self:
        """From the keys of a loss_fn_config that are options; the loss judges the others."""
        return cls(**{key: config[key] for key in cls.defaults() if key in config})

    @classmethod
    def defaults(cls) -> dict[str, float]:
        """Every option with its default."""
        return {field.name: cast(float, field.default) for field in fields(cls)}

    def cost_scales(self, num_actions_S: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """What the costs of each datum's tokens are multiplied by, given the action tokens of all datums."""
        if self.normalize_by_tokens:
            return np.full(len(num_actions_S), 1 / num_actions_S.sum())
        if self.normalize_by_sequences:
            return 1 / (num_actions_S * len(num_actions_S))
        return np.ones(len(num_actions_S))
