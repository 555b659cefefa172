"""How long the demo will take on this machine, from its first greedy score and one forward pass."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from examples.demo_display import duration
from examples.figures import RunFigures

if TYPE_CHECKING:
    from hud.eval import Run

    from examples.grpo import Loop

_FORWARDS_A_PASS = 3.0
"""A forward and a backward pass take three times as long as the forward pass."""
_RECENT = 5  # steps


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of one step and of one score, and tokens a second, sampled and trained."""

    step_s: float
    score_s: float
    sampled_per_s: float
    trained_per_s: float

    def sentence(self, num_steps: int, num_scores: int) -> str:
        """What to expect of the steps and scores that are still to come."""
        total_s = num_steps * self.step_s + num_scores * self.score_s
        return (
            f"this machine samples {self.sampled_per_s:.0f} tokens/s and trains {self.trained_per_s:.0f}: a step takes "
            f"about {self.step_s:.0f} s, {num_steps} steps and {num_scores} scores about {duration(total_s)}; less if "
            "answers get shorter"
        )


async def estimate(loop: Loop, score_s: float) -> Estimate:
    """From the rollouts of the last score, which took `score_s`. A forward pass leaves no gradient."""
    from examples.grpo import samples_of

    runs = [run for run in loop.scored if samples_of(run)]
    if not runs:
        raise ValueError("no rollout of the first score has an answer: look into the sampler's log")
    config = loop.config
    prompt, answer = (fmean(lengths) for lengths in zip(*map(_lengths, runs), strict=True))
    trained_per_s = await _trained_per_s(loop, runs[: config.group_size])
    sampled_per_s = answer * len(runs) / score_s
    num_answers = config.groups * config.group_size
    sampling_s = num_answers * answer / sampled_per_s
    # the answers of a group share their prompt, which is computed once
    training_s = (config.groups * prompt + num_answers * answer) / trained_per_s
    return Estimate(sampling_s + training_s, score_s, sampled_per_s, trained_per_s)


async def _trained_per_s(loop: Loop, runs: list[Run]) -> float:
    from hud.train.types import TrajectoryPayload

    from examples.grpo import samples_of

    batch = [TrajectoryPayload(samples=samples_of(run), reward=float(index % 2)) for index, run in enumerate(runs)]
    await loop.trainer.forward(batch[:1])  # loads the model's adapter
    started = time.monotonic()
    await loop.trainer.forward(batch)
    return sum(map(sum, map(_lengths, runs))) / (time.monotonic() - started) / _FORWARDS_A_PASS


def _lengths(run: Run) -> tuple[int, int]:
    """Tokens of the prompt and of the answer."""
    from examples.grpo import samples_of

    (sample,) = samples_of(run)[:1]
    return len(sample.prompt_token_ids or ()), len(sample.output_token_ids)


def seconds_left(figures: RunFigures, num_steps: int) -> float:
    """Of the steps that are still to come, as long as the last ones were."""
    recent = [step.rollout_s + step.training_s for step in figures.steps[-_RECENT:]]
    return (num_steps - len(figures.steps)) * fmean(recent) if recent else 0.0
