"""The training loop of the demo with pictures: read fresh pictures in groups, train on what was read, look at the
result. Import it after the HUD_* variables are set."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from statistics import fmean

from hud import TrainingClient
from hud.train.types import TrajectoryPayload, TrajectorySample

from examples.figures import HeldOutScore, StepFigures
from examples.grpo import KL_METRIC, LoopConfig, NothingToTrainOn, Watch
from examples.images_players import Player, Reading
from examples.pictures.drawing import Drawing, split_numbers

HELD_OUT_SEEDS = range(1_000_000, 1_000_100)  # pictures of held-out numbers: the same in each score


class ImagesLoop:
    """Trains one model on pictures of numbers that are not held out, each step on new ones."""

    def __init__(self, model: str, config: LoopConfig, player: Player, watch: Watch) -> None:
        self.trainer = TrainingClient(model)
        self.player = player
        self._config = config
        self._watch = watch
        self._rng = random.Random(config.seed)
        self._num_steps = 0

    async def step(self) -> StepFigures:
        """Raises NothingToTrainOn where each group has a reading that failed."""
        started = time.monotonic()
        readings = await self.player.read(self._draw(), self._config.group_size, temperature=1.0)
        read = time.monotonic()
        usable = complete_groups(readings, self._config.group_size)
        if not usable:
            raise NothingToTrainOn(f"all {self._config.groups} groups had failed rollouts: {self.player.error}")
        self._watch("training", 0, 1)
        passed = await self.trainer.forward_backward(usable, group_size=self._config.group_size)
        accumulated = time.monotonic()
        promoted = await self.trainer.optim_step(learning_rate=self._config.learning_rate)
        self._num_steps += 1
        return StepFigures(
            step=self._num_steps,
            reward=fmean(reading.reward for reading in usable),
            num_rollouts=len(usable),
            num_failed=readings.count(None),
            num_tokens=sum(map(num_tokens, usable)),
            rollout_s=read - started,
            forward_backward_s=accumulated - read,
            optim_step_s=time.monotonic() - accumulated,
            kl=passed.metrics.get(KL_METRIC),
            checkpoint_id=promoted.checkpoint_id,
            metrics=passed.metrics,
        )

    def _draw(self) -> list[Drawing]:
        training, _ = split_numbers()
        return [
            Drawing(number, self._rng.randrange(10**6)) for number in self._rng.sample(training, self._config.groups)
        ]

    async def score_held_out(self) -> HeldOutScore:
        """Greedy readings of numbers that are never trained on. A failed one counts as wrong."""
        _, numbers = split_numbers()
        each = max(1, self._config.num_held_out // len(numbers))
        drawings = [Drawing(number, seed) for number in numbers for seed in HELD_OUT_SEEDS[:each]]
        readings = await self.player.read(drawings, 1, temperature=0.0)
        rewards = [reading.reward if reading else 0.0 for reading in readings]
        return HeldOutScore(self._num_steps, fmean(rewards), len(rewards))


def complete_groups(readings: Sequence[Reading], group_size: int) -> list[TrajectoryPayload]:
    """A group's mean is the baseline of each member: without one of them it would be another."""
    groups = [readings[start : start + group_size] for start in range(0, len(readings), group_size)]
    return [reading for group in groups if None not in group for reading in group if reading is not None]


def num_tokens(reading: TrajectoryPayload) -> int:
    """Of prompts, pictures included, and of answers."""
    return sum(_num_prompt_tokens(sample) + len(sample.output_token_ids) for sample in reading.samples)


def _num_prompt_tokens(sample: TrajectorySample) -> int:
    if sample.prompt_chunks is None:
        return len(sample.prompt_token_ids or ())
    return sum(len(chunk.get("tokens", ())) + chunk.get("expected_tokens", 0) for chunk in sample.prompt_chunks)
