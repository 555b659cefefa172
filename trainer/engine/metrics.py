"""What a gradient pass reports. Every value is a finite float; `name:reduction` says how tokens were reduced, save
for the names that the SDK documents (`reward_mean` and its kin, `sampling_logprob_mean`).

docs/metrics.md says of each what it means and what to do about it. Two estimates of KL(sampler ‖ trainer), both
unbiased: the plain mean of q − π, which may be slightly negative, and k3 (http://joschu.net/blog/kl-approx.html),
exp(π − q) − 1 − (π − q), which never is and which one token far off can rule. Figures that need sampling logprobs
are left out where the batch carries none, and means over tokens where no position has a weight.
"""

# N targets of a micro-batch, C of them that count for the figures: one a position that has a weight; G groups

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from trainer.engine.objective import Weighted
from trainer.engine.scores import Scores
from wire.datums import Datum, by_trajectory
from wire.engine import PassResult
from wire.spread import has_spread
from wire.trajectories import Float32Array


@dataclass(frozen=True, slots=True)
class Sums:
    """Over the tokens of one micro-batch or of several, in float64; None where it does not apply."""

    num_tokens_computed: int
    cost: float
    num_micro_batches: int = 1
    num_tokens: int = 0
    num_clipped: int | None = None
    kl_base: float | None = None
    entropy: float = 0.0
    sampling_logprob: float = 0.0
    drift: float = 0.0
    k3: float = 0.0
    ratio: float = 0.0
    ratio_max: float = 0.0

    @classmethod
    def of(cls, scores: Scores, weighted: Weighted) -> Sums:
        """Of a micro-batch, and of how it was weighed."""
        cost = weighted.costs_N.double().sum().item()
        counting = scores.counting()
        if counting is not None and not len(counting):
            return cls(scores.pack.num_tokens, cost)
        chosen = slice(None) if counting is None else counting
        logprobs_C = scores.logprobs_N[chosen].double()
        sampling_logprobs_C = scores.sampling_logprobs_N[chosen].double()
        # Capped so that sums of ratios stay finite.
        gaps_C = (logprobs_C - sampling_logprobs_C).clamp(max=600)
        ratios_C = gaps_C.exp()
        clipped_N, kl_base_N = weighted.clipped_N, weighted.kl_base_N
        return cls(
            scores.pack.num_tokens,
            cost,
            num_tokens=len(logprobs_C),
            num_clipped=None if clipped_N is None else int(clipped_N[chosen].sum()),
            kl_base=None if kl_base_N is None else kl_base_N[chosen].double().sum().item(),
            entropy=scores.entropies_N[chosen].double().sum().item(),
            sampling_logprob=sampling_logprobs_C.sum().item(),
            drift=(sampling_logprobs_C - logprobs_C).sum().item(),
            k3=(gaps_C.expm1() - gaps_C).sum().item(),
            ratio=ratios_C.sum().item(),
            ratio_max=ratios_C.max().item(),
        )

    def __add__(self, other: Sums) -> Sums:
        """Of both together."""
        names = (one.name for one in fields(self))
        sums: dict[str, Any] = {name: _added(getattr(self, name), getattr(other, name)) for name in names}
        sums["ratio_max"] = max(self.ratio_max, other.ratio_max)
        return Sums(**sums)


def _added(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


@dataclass(frozen=True, slots=True)
class MicroBatchFigures:
    """What a micro-batch came to. logprobs: of each of its datums, in their order."""

    logprobs: Sequence[Float32Array]
    sums: Sums

    @classmethod
    def of(cls, scores: Scores, weighted: Weighted) -> MicroBatchFigures:
        """What it came to, and how it was weighed."""
        return cls(list(scores.per_datum().values()), Sums.of(scores, weighted))


class PassTally:
    """Adds up the micro-batches of one pass, in the order of its plan, whoever computed them."""

    def __init__(self) -> None:
        self._logprobs: dict[Datum, Float32Array] = {}
        self._sums: Sums | None = None

    def add(self, datums: Sequence[Datum], figures: MicroBatchFigures) -> None:
        """Count a micro-batch of these datums."""
        self._logprobs.update(zip(datums, figures.logprobs, strict=True))
        self._sums = figures.sums if self._sums is None else self._sums + figures.sums

    def result(
        self, datums: Sequence[Datum], seconds: Mapping[str, float], recorded: Mapping[str, float]
    ) -> PassResult:
        """The pass as its caller sees it. seconds: `seconds:sum` and its parts; `recorded` goes along as it is."""
        sums = self._sums
        assert sums is not None, "a pass has a micro-batch"
        total_s, num_tokens_merged = seconds["seconds:sum"], sum(datum.num_tokens for datum in datums)
        metrics = {
            "loss:sum": sums.cost,
            **_reward_metrics(datums),
            **(_token_metrics(sums, datums) if sums.num_tokens else {}),
            "tokens:sum": sums.num_tokens,
            "tokens_sent:sum": sum(datum.num_prompt_tokens for datum in datums) + sums.num_tokens,
            "tokens_merged:sum": num_tokens_merged,
            "tokens_computed:sum": sums.num_tokens_computed,
            "sharing_ratio": num_tokens_merged / sums.num_tokens_computed,
            **_picture_metrics(datums),
            "micro_batches:sum": sums.num_micro_batches,
            **seconds,
            "tokens_per_s": sums.num_tokens_computed / total_s if total_s > 0 else 0.0,
            **recorded,
        }
        return PassResult(
            {name: float(value) for name, value in metrics.items()},
            len(datums),
            sums.num_tokens,
            [self._logprobs[datum] for datum in datums],
        )


def _token_metrics(sums: Sums, datums: Sequence[Datum]) -> dict[str, float]:
    return {
        **(_sampling_metrics(sums) if all(datum.is_sampled.all() for datum in datums) else {}),
        **({} if sums.kl_base is None else {"kl_base:mean": sums.kl_base / sums.num_tokens}),
        "entropy:mean": sums.entropy / sums.num_tokens,
    }


def _sampling_metrics(sums: Sums) -> dict[str, float]:
    metrics = {
        "sampling_logprob_mean": sums.sampling_logprob / sums.num_tokens,
        "kl_sampling_trainer:mean": sums.drift / sums.num_tokens,
        "kl_sampling_trainer_k3:mean": sums.k3 / sums.num_tokens,
        "ratio:mean": sums.ratio / sums.num_tokens,
        "ratio:max": sums.ratio_max,
    }
    if sums.num_clipped is not None:
        metrics["clip_fraction:mean"] = sums.num_clipped / sums.num_tokens
    return metrics


def _picture_metrics(datums: Sequence[Datum]) -> dict[str, float]:
    """Nothing where there are none."""
    media = [item for datum in datums for item in datum.model_input.media]
    if not media:
        return {}
    return {"pictures:sum": len({item.digest for item in media}), "pictures_shown:sum": len(media)}


def _reward_metrics(datums: Sequence[Datum]) -> dict[str, float]:
    """Of the trajectories that have a reward; nothing, if none has."""
    origins = [of_one[0].origin for of_one in by_trajectory(datums)]
    rewards = np.array([origin.reward for origin in origins if origin.reward is not None], np.float64)
    groups = np.array([origin.group_index for origin in origins if origin.reward is not None])
    if len(rewards) == 0:
        return {}
    starts_G = np.flatnonzero(np.diff(groups, prepend=-1))
    spread_G = has_spread(np.minimum.reduceat(rewards, starts_G), np.maximum.reduceat(rewards, starts_G))
    return {
        "reward_mean": rewards.mean(),
        "reward_std": rewards.std(),
        "reward_min": rewards.min(),
        "reward_max": rewards.max(),
        "groups_without_spread": np.mean(~spread_G).item(),
    }
