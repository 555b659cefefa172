"""How far the trainer's logprobs of a rollout are from the sampler's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from store.rollouts import RecordedSample
from store.rollouts.trainer_logprobs import TrainerLogprobs, TrainerLogprobsOf
from wire.trajectories import Float32Array


@dataclass(frozen=True, slots=True)
class Gap:
    """Of some tokens, with q the sampler's logprob and π the trainer's: sums of |π − q| and of the KL's k3 estimate,
    exp(π − q) − 1 − (π − q), in nats."""

    num_tokens: int
    absolute: float
    largest: float
    k3: float

    @property
    def mean(self) -> float:
        """Of |π − q|."""
        return self.absolute / self.num_tokens

    @property
    def kl(self) -> float:
        """KL(sampler ‖ trainer) a token, by k3."""
        return self.k3 / self.num_tokens

    def figures(self) -> dict[str, float | int]:
        """As the API returns them."""
        return {
            "num_tokens": self.num_tokens,
            "mean_abs_difference": self.mean,
            "max_abs_difference": self.largest,
            "kl_k3": self.kl,
        }


def gap_of(sampling: Float32Array, trainer: Float32Array) -> Gap | None:
    """Over the tokens for which both are known and finite; None where there are none."""
    if len(sampling) != len(trainer):  # sampled without logprobs
        return None
    with np.errstate(invalid="ignore"):
        differences = trainer.astype(np.float64) - sampling
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return None
    sizes = np.abs(differences)
    capped = differences.clip(max=600)  # so that the sum stays finite
    return Gap(len(sizes), float(sizes.sum()), float(sizes.max()), float((np.expm1(capped) - capped).sum()))


def gap_of_sample(sample: RecordedSample, kept: TrainerLogprobs | None) -> Gap | None:
    """Of one answer; None where no pass went over it."""
    return gap_of(sample.turn.sampling_logprobs, kept.logprobs) if kept is not None else None


def gap_of_rollout(samples: Iterable[RecordedSample], kept: TrainerLogprobsOf) -> Gap | None:
    """Of all of its tokens that a pass went over."""
    gaps = [gap for sample in samples if (gap := gap_of_sample(sample, kept.get(sample.digest))) is not None]
    if not gaps:
        return None
    return Gap(
        sum(gap.num_tokens for gap in gaps),
        sum(gap.absolute for gap in gaps),
        max(gap.largest for gap in gaps),
        sum(gap.k3 for gap in gaps),
    )
