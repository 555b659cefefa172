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
from dataclasses import dataclass, field

import numpy as np

from trainer.engine.objective import Weighted
from trainer.engine.scores import Scores
from wire.datums import Datum, by_trajectory
from wire.engine import PassResult
from wire.spread import has_spread
from wire.trajectories import Float32Array


@dataclass(frozen=True, slots=True)
class MicroBatchFigures:
    """Sums of one micro-batch, in float64. logprobs: of each of its datums, in their order."""

    logprobs: Sequence[Float32Array]
    num_tokens_computed: int
    cost: float
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
    def of(cls, scores: Scores, weighted: Weighted) -> MicroBatchFigures:
        """What it came to, and how it was weighed."""
        logprobs = list(scores.per_datum().values())
        cost = weighted.costs_N.double().sum().item()
        counting = scores.counting()
        if counting is not None and not len(counting):
            return cls(logprobs, scores.pack.num_tokens, cost)
        chosen = slice(None) if counting is None else counting
        logprobs_C = scores.logprobs_N[chosen].double()
        sampling_logprobs_C = scores.sampling_logprobs_N[chosen].double()
        # Capped so that sums of ratios stay finite.
        gaps_C = (logprobs_C - sampling_logprobs_C).clamp(max=600)
        ratios_C = gaps_C.exp()
        clipped_N, kl_base_N = weighted.clipped_N, weighted.kl_base_N
        return cls(
            logprobs,
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


@dataclass(slots=True)
class PassTally:
    """Adds up the micro-batches of one pass, in the order of its plan, whoever computed them."""

    num_tokens: int = 0
    num_tokens_computed: int = 0
    num_micro_batches: int = 0
    num_clipped: int | None = None
    kl_base: float | None = None
    cost: float = 0.0
    entropy: float = 0.0
    sampling_logprob: float = 0.0
    drift: float = 0.0
    k3: float = 0.0
    ratio: float = 0.0
    ratio_max: float = 0.0
    logprobs: dict[Datum, Float32Array] = field(default_factory=dict[Datum, Float32Array])

    def add(self, datums: Sequence[Datum], figures: MicroBatchFigures) -> None:
        """Count a micro-batch of these datums."""
        self.logprobs.update(zip(datums, figures.logprobs, strict=True))
        self.num_micro_batches += 1
        self.num_tokens += figures.num_tokens
        self.num_tokens_computed += figures.num_tokens_computed
        self.cost += figures.cost
        self.entropy += figures.entropy
        self.sampling_logprob += figures.sampling_logprob
        self.drift += figures.drift
        self.k3 += figures.k3
        self.ratio += figures.ratio
        self.ratio_max = max(self.ratio_max, figures.ratio_max)
        if figures.num_clipped is not None:
            self.num_clipped = (self.num_clipped or 0) + figures.num_clipped
        if figures.kl_base is not None:
            self.kl_base = (self.kl_base or 0.0) + figures.kl_base

    def result(
        self, datums: Sequence[Datum], seconds: Mapping[str, float], recorded: Mapping[str, float]
    ) -> PassResult:
        """The pass as its caller sees it. seconds: `seconds:sum` and its parts; `recorded` goes along as it is."""
        total_s, num_tokens_merged = seconds["seconds:sum"], sum(datum.num_tokens for datum in datums)
        metrics = {
            "loss:sum": self.cost,
            **_reward_metrics(datums),
            **(self._token_metrics(datums) if self.num_tokens else {}),
            "tokens:sum": self.num_tokens,
            "tokens_sent:sum": sum(datum.num_prompt_tokens for datum in datums) + self.num_tokens,
            "tokens_merged:sum": num_tokens_merged,
            "tokens_computed:sum": self.num_tokens_computed,
            "sharing_ratio": num_tokens_merged / self.num_tokens_computed,
            "micro_batches:sum": self.num_micro_batches,
            **seconds,
            "tokens_per_s": self.num_tokens_computed / total_s if total_s > 0 else 0.0,
            **recorded,
        }
        return PassResult(
            {name: float(value) for name, value in metrics.items()},
            len(datums),
            self.num_tokens,
            [self.logprobs[datum] for datum in datums],
        )

    def _token_metrics(self, datums: Sequence[Datum]) -> dict[str, float]:
        return {
            **(self._sampling_metrics() if all(datum.is_sampled.all() for datum in datums) else {}),
            **({} if self.kl_base is None else {"kl_base:mean": self.kl_base / self.num_tokens}),
            "entropy:mean": self.entropy / self.num_tokens,
        }

    def _sampling_metrics(self) -> dict[str, float]:
        metrics = {
            "sampling_logprob_mean": self.sampling_logprob / self.num_tokens,
            "kl_sampling_trainer:mean": self.drift / self.num_tokens,
            "kl_sampling_trainer_k3:mean": self.k3 / self.num_tokens,
            "ratio:mean": self.ratio / self.num_tokens,
            "ratio:max": self.ratio_max,
        }
        if self.num_clipped is not None:
            metrics["clip_fraction:mean"] = self.num_clipped / self.num_tokens
        return metrics


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
