"""What a rule gets: the path from the root of the tree to one checkpoint, and the scores on it.

Other branches do not count: a model that was rolled back is judged by what it is now.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import attrgetter
from statistics import fmean
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Step:
    """A committed checkpoint. `reward`: mean over the trajectories that it was trained on, which the policy before it
    sampled; `reward_std`: over the same."""

    id: UUID
    name: str
    step: int
    reward: float | None
    reward_std: float | None
    num_traces: int | None
    metrics: Mapping[str, Any]

    def metric(self, name: str) -> float | None:
        """A figure of the step; None where it has none."""
        value = self.metrics.get(name)
        return float(value) if isinstance(value, (int, float)) else None

    @property
    def length(self) -> float | None:
        """Action tokens a trajectory."""
        tokens = self.metric("tokens:sum")
        return tokens / self.num_traces if tokens is not None and self.num_traces else None

    @property
    def reward_variance(self) -> float:
        """Of the mean reward: the square of its standard error; 0 where unknown."""
        return self.reward_std**2 / self.num_traces if self.reward_std and self.num_traces else 0.0


Figure = Callable[[Step], float | None]
"""Something that a step may have."""
reward: Figure = attrgetter("reward")
_NUMBER: Callable[[Step], int] = attrgetter("step")


@dataclass(frozen=True, slots=True)
class Score:
    """A held-out score of a checkpoint (None: the base weights, step 0). Signed so that more is better."""

    id: UUID
    benchmark: str
    checkpoint_id: UUID | None
    checkpoint_name: str
    step: int
    score: float
    stderr: float | None
    n: int | None
    higher_is_better: bool = True

    @property
    def goodness(self) -> float:
        """The score, its sign turned where less is better."""
        return self.score if self.higher_is_better else -self.score


@dataclass(frozen=True, slots=True)
class History:
    """Steps and scores, oldest first. `components`: of each part of the reward, (step, mean over rollouts)."""

    model: str
    steps: Sequence[Step] = ()
    scores: Sequence[Score] = ()
    components: Mapping[str, Sequence[tuple[int, float]]] = field(
        default_factory=dict[str, Sequence[tuple[int, float]]]
    )
    failure: str | None = None
    """What a trainer said when numbers were not finite."""

    def since(self, step: int) -> History:
        """Without what came before: what somebody has acknowledged is no news."""
        return replace(
            self,
            steps=self.between(step, None),
            scores=[score for score in self.scores if score.step >= step],
            components={name: [at for at in means if at[0] >= step] for name, means in self.components.items()},
        )

    def between(self, after: int, to: int | None) -> Sequence[Step]:
        """The steps after that number, up to and with this one (None: all)."""
        begin = bisect_right(self.steps, after, key=_NUMBER)
        return self.steps[begin : None if to is None else bisect_right(self.steps, to, key=_NUMBER)]

    def first(self, num: int, figure: Figure) -> list[tuple[Step, float]]:
        """Of the steps that have the figure, the first so many. No more are looked at than it takes."""
        return list(islice(_having(self.steps, figure), num))

    def last(self, num: int, figure: Figure) -> list[tuple[Step, float]]:
        """Of the steps that have the figure, the last so many, oldest first."""
        return list(islice(_having(reversed(self.steps), figure), num))[::-1]

    def series(self, metric: str) -> list[tuple[Step, float]]:
        """The steps that have the figure."""
        return [(step, value) for step in self.steps if (value := step.metric(metric)) is not None]

    def benchmarks(self) -> dict[str, list[Score]]:
        """The scores of each benchmark, one a checkpoint: the newest."""
        found = dict[str, dict[UUID | None, Score]]()
        for score in self.scores:
            found.setdefault(score.benchmark, {})[score.checkpoint_id] = score
        return {name: sorted(scores.values(), key=lambda score: score.step) for name, scores in found.items()}


def metric(name: str) -> Figure:
    """The figure of that name."""
    return lambda step: step.metric(name)


def _having(steps: Iterable[Step], figure: Figure) -> Iterator[tuple[Step, float]]:
    return ((step, value) for step in steps if (value := figure(step)) is not None)


def mean_reward(steps: Sequence[Step]) -> tuple[float, float]:
    """The mean of steps that have rewards, and its standard error."""
    rewards = [step.reward for step in steps if step.reward is not None]
    variance = sum(step.reward_variance for step in steps) / len(steps) ** 2
    return fmean(rewards), math.sqrt(variance)


def correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Pearson's; 0 where one of the two does not vary."""
    xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
    mean_x, mean_y = fmean(xs), fmean(ys)
    spread = math.sqrt(sum((x - mean_x) ** 2 for x in xs) * sum((y - mean_y) ** 2 for y in ys))
    return sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread if spread > 0 else 0.0
