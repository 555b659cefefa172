"""What a gradient pass reports. Every value is a finite float; `name:reduction` says how tokens were reduced, save
for the names that the SDK documents (`reward_mean` and its kin, `sampling_logprob_mean`).

docs/metrics.md says of each what it means and what to do about it. Two estimates of KL(sampler ‖ trainer), both
unbiased: the plain mean of q − π, which may be slightly negative, and k3 (http://joschu.net/blog/kl-approx.html),
exp(π − q) − 1 − (π − q), which never is and which one token far off can rule. Figures that need sampling logprobs
are left out where the batch carries none.
"""

# N action tokens of a micro-batch

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.engine.advantages import grouped_rewards, groups_without_spread
from trainer.engine.batch import Datum, by_trajectory
from trainer.engine.objective import Weighted
from trainer.engine.scores import Scores
from wire.engine import PassResult
from wire.trajectories import Batch, Float32Array


@dataclass(slots=True)
class PassTally:
    """Adds up the micro-batches of one pass, in float64."""

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

    def add(self, scores: Scores, weighted: Weighted) -> None:
        """Count a micro-batch."""
        logprobs_N, sampling_logprobs_N = scores.logprobs_N.double(), scores.sampling_logprobs_N.double()
        # Capped so that sums of ratios stay finite.
        gaps_N = (logprobs_N - sampling_logprobs_N).clamp(max=600)
        ratios_N = gaps_N.exp()
        self.logprobs |= scores.per_datum()
        self.num_micro_batches += 1
        self.num_tokens += len(logprobs_N)
        self.num_tokens_computed += scores.pack.num_tokens
        self.cost += weighted.costs_N.double().sum().item()
        self.entropy += scores.entropies_N.double().sum().item()
        self.sampling_logprob += sampling_logprobs_N.sum().item()
        self.drift += (sampling_logprobs_N - logprobs_N).sum().item()
        self.k3 += (gaps_N.expm1() - gaps_N).sum().item()
        self.ratio += ratios_N.sum().item()
        self.ratio_max = max(self.ratio_max, ratios_N.max().item())
        if weighted.clipped_N is not None:
            self.num_clipped = (self.num_clipped or 0) + int(weighted.clipped_N.sum())
        if weighted.kl_base_N is not None:
            self.kl_base = (self.kl_base or 0.0) + weighted.kl_base_N.double().sum().item()

    def result(
        self, batch: Batch, datums: Sequence[Datum], seconds: Mapping[str, float], recorded: Mapping[str, float]
    ) -> PassResult:
        """The pass as its caller sees it. seconds: `seconds:sum` and its parts; `recorded` goes along as it is."""
        rows = {datum: self.logprobs[datum] for datum in datums}
        total_s, num_tokens_merged = seconds["seconds:sum"], sum(datum.num_computed_tokens for datum in datums)
        metrics = {
            "loss:sum": self.cost,
            **_reward_metrics(batch),
            **(self._sampling_metrics() if _has_sampling_logprobs(batch) else {}),
            **({} if self.kl_base is None else {"kl_base:mean": self.kl_base / self.num_tokens}),
            "entropy:mean": self.entropy / self.num_tokens,
            "tokens:sum": self.num_tokens,
            "tokens_sent:sum": batch.num_prompt_tokens + self.num_tokens,
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
            by_trajectory(rows, len(batch.trajectories)),
        )

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


def _reward_metrics(batch: Batch) -> dict[str, float]:
    rewards_GK = grouped_rewards(batch)
    return {
        "reward_mean": rewards_GK.mean(),
        "reward_std": rewards_GK.std(),
        "reward_min": rewards_GK.min(),
        "reward_max": rewards_GK.max(),
        "groups_without_spread": np.mean(groups_without_spread(rewards_GK)).item(),
    }


def _has_sampling_logprobs(batch: Batch) -> bool:
    return all(len(turn.sampling_logprobs) for trajectory in batch.trajectories for turn in trajectory.turns)
