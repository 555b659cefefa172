"""What a gradient pass reports. Every value is a finite float; `name:reduction` says how tokens were reduced.

kl_sampling_trainer:mean is the plain mean of q − π over action tokens: unbiased for KL(sampler ‖ trainer), and
unlike an exponential estimate finite on any batch, though it may be slightly negative. Figures that need sampling
logprobs are left out where the batch carries none.
"""

# N action tokens of a micro-batch

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainer.advantages import grouped_rewards, groups_without_spread
from trainer.objective import Weighted
from trainer.scores import Scores
from wire.engine import PassResult
from wire.trajectories import Batch


@dataclass(slots=True)
class PassTally:
    """Adds up the micro-batches of one pass, in float64."""

    num_tokens: int = 0
    num_tokens_computed: int = 0
    num_micro_batches: int = 0
    num_clipped: int | None = None
    cost: float = 0.0
    entropy: float = 0.0
    sampling_logprob: float = 0.0
    drift: float = 0.0
    ratio: float = 0.0
    ratio_max: float = 0.0

    def add(self, scores: Scores, weighted: Weighted) -> None:
        """Count a micro-batch."""
        logprobs_N, sampling_logprobs_N = scores.logprobs_N.double(), scores.sampling_logprobs_N.double()
        # Capped so that sums of ratios stay finite.
        ratios_N = (logprobs_N - sampling_logprobs_N).clamp(max=600).exp()
        self.num_micro_batches += 1
        self.num_tokens += len(logprobs_N)
        self.num_tokens_computed += scores.pack.num_tokens
        self.cost += weighted.costs_N.double().sum().item()
        self.entropy += scores.entropies_N.double().sum().item()
        self.sampling_logprob += sampling_logprobs_N.sum().item()
        self.drift += (sampling_logprobs_N - logprobs_N).sum().item()
        self.ratio += ratios_N.sum().item()
        self.ratio_max = max(self.ratio_max, ratios_N.max().item())
        if weighted.clipped_N is not None:
            self.num_clipped = (self.num_clipped or 0) + int(weighted.clipped_N.sum())

    def result(self, batch: Batch, num_datums: int, seconds: float, recorded: Mapping[str, float]) -> PassResult:
        """The pass as its caller sees it; `recorded` goes along as it is."""
        metrics = {
            "loss:sum": self.cost,
            **_reward_metrics(batch),
            **(self._sampling_metrics() if _has_sampling_logprobs(batch) else {}),
            "entropy:mean": self.entropy / self.num_tokens,
            "tokens:sum": self.num_tokens,
            "tokens_computed:sum": self.num_tokens_computed,
            "tokens_prompt_sent:sum": batch.num_prompt_tokens,
            "micro_batches:sum": self.num_micro_batches,
            "seconds:sum": seconds,
            "tokens_per_s": self.num_tokens_computed / seconds if seconds > 0 else 0.0,
            **recorded,
        }
        return PassResult({name: float(value) for name, value in metrics.items()}, num_datums, self.num_tokens)

    def _sampling_metrics(self) -> dict[str, float]:
        metrics = {
            "sampling_logprob_mean": self.sampling_logprob / self.num_tokens,
            "kl_sampling_trainer:mean": self.drift / self.num_tokens,
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
