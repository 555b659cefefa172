"""The training loop: roll out groups, train on them, look at the result. Nothing but the hud SDK.

Import it after the HUD_* variables are set: the SDK reads them when it is imported.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from hud import TrainingClient
from hud.agents import create_agent
from hud.agents.base import Agent
from hud.agents.types import AgentStep
from hud.eval import Job, LocalRuntime, Run, Shared
from hud.train.types import CheckpointResponse, TrajectoryPayload, TrajectorySample
from hud.utils.gateway import list_gateway_models, resolve_gateway_model
from hud.utils.platform import PlatformClient

from examples.figures import HeldOutScore, StepFigures
from examples.sums import ARITHMETIC, Problem, Sums

KL_METRIC = "kl_sampling_trainer:mean"
MAX_TOKENS = ARITHMETIC.max_tokens

Watch = Callable[[str, int, int], None]
"""Is called with what a step does ("rollouts" or "training"), how much of it is done, and of how much."""


class NothingToTrainOn(RuntimeError):
    """Every group of a step had a failed rollout."""


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """One step is `groups` problems × `group_size` answers, and one optimizer step. `control` zeroes the rewards."""

    groups: int = 8
    group_size: int = 8
    learning_rate: float = 7e-4
    seed: int = 0
    control: bool = False
    num_held_out: int = 64
    max_concurrent: int = 32


def fork_model(base_model: str, name: str) -> str:
    """A trainable model of our own, starting from the base; returns its slug. `hud models fork` does the same."""
    source = resolve_gateway_model(base_model)
    fork = PlatformClient.from_settings().post("/models/fork", json={"source_model_id": source.id, "name": name})
    list_gateway_models.cache_clear()  # the SDK reads the catalog once a process, and the fork is newer than that
    return fork["model_name"]


@dataclass(slots=True)
class Loop:
    """Rolls out and trains one model. Use as `async with`: one environment serves every rollout in between.

    `Shared` matters: a live environment alone serves its rollouts one after the other.
    """

    model: str
    config: LoopConfig
    sums: Sums = ARITHMETIC
    watch: Watch = lambda _phase, _done, _of: None
    trainer: TrainingClient = field(init=False)
    num_steps: int = 0
    scored: list[Run] = field(init=False, default_factory=list[Run])
    """The rollouts of the last score."""
    _runtime: Shared = field(init=False)
    _job: Job | None = field(init=False, default=None)
    _rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.trainer = TrainingClient(self.model)
        self._runtime = Shared(LocalRuntime(self.sums.env), width=self.config.max_concurrent)
        self._rng = random.Random(self.config.seed)
        for _ in range(self.num_steps):
            self._choose()

    async def __aenter__(self) -> Loop:
        await self._runtime.__aenter__()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._runtime.__aexit__(*failure)

    async def step(self) -> StepFigures:
        """Roll out fresh problems in groups, train on them, promote the new weights."""
        started = time.monotonic()
        runs = await self._roll_out(self._choose())
        rolled_out = time.monotonic()
        usable = complete_groups(runs, self.config.group_size)
        if not usable:
            raise NothingToTrainOn(f"all {self.config.groups} groups had failed rollouts: {first_error(runs)}")
        batch = [without_reward(run) for run in usable] if self.config.control else usable
        self.watch("training", 0, 1)
        passed = await self.trainer.forward_backward(batch, group_size=self.config.group_size)
        accumulated = time.monotonic()
        promoted = await self.trainer.optim_step(learning_rate=self.config.learning_rate)
        self.num_steps += 1
        return StepFigures(
            step=self.num_steps,
            reward=fmean(run.reward for run in usable),
            num_rollouts=len(usable),
            num_failed=sum(not samples_of(run) for run in runs),
            num_tokens=sum(map(count_tokens, usable)),
            rollout_s=rolled_out - started,
            forward_backward_s=accumulated - rolled_out,
            optim_step_s=time.monotonic() - accumulated,
            kl=passed.metrics.get(KL_METRIC),
            checkpoint_id=promoted.checkpoint_id,
            metrics=passed.metrics,
        )

    def _choose(self) -> list[Problem]:
        training, _ = self.sums.split()
        return self._rng.sample(training, self.config.groups)

    async def _roll_out(self, problems: Sequence[Problem]) -> list[Run]:
        if self._job is None:  # one job for the whole training session
            self._job = await Job.start(f"train {self.model}", group=self.config.group_size)
        num_before = len(self._job.runs)
        await self.sums.taskset("training problems", problems).run(
            self._agent(1.0, len(problems) * self.config.group_size),
            runtime=self._runtime,
            group=self.config.group_size,
            max_concurrent=self.config.max_concurrent,
            job=self._job,
        )
        return self._job.runs[num_before:]

    async def score_held_out(self) -> HeldOutScore:
        """Greedy answers to problems that are never trained on. A failed rollout counts as a wrong answer."""
        _, held_out = self.sums.split()
        problems = random.Random(self.config.seed).sample(held_out, min(self.config.num_held_out, len(held_out)))
        job = await self.sums.taskset(f"held out, step {self.num_steps}", problems).run(
            self._agent(0.0, len(problems)),
            runtime=self._runtime,
            max_concurrent=self.config.max_concurrent,
        )
        self.scored = job.runs
        return HeldOutScore(self.num_steps, fmean(run.reward for run in job.runs), len(job.runs))

    async def answer(self, problems: Sequence[Problem]) -> list[str]:
        """What the model's head answers now, greedily."""
        job = await self.sums.taskset("show", problems).run(self._agent(0.0, len(problems)), runtime=self._runtime)
        return [str(run.trace.content or "").strip() for run in job.runs]

    async def roll_back(self, checkpoint: CheckpointResponse) -> None:
        """Serve this node, and train on from it."""
        await self.trainer.set_head(checkpoint.id)

    def _agent(self, temperature: float, num_rollouts: int) -> Agent:
        return CountingAgent(sampling_agent(self.model, temperature, self.sums.max_tokens), num_rollouts, self.watch)


class CountingAgent(Agent):
    """Has another agent do the work, and reports how many rollouts it has ended."""

    def __init__(self, agent: Agent, num_rollouts: int, watch: Watch) -> None:
        super().__init__(agent.config)
        self._agent = agent
        self._num_rollouts = num_rollouts
        self._watch = watch
        self._num_done = 0
        watch("rollouts", 0, num_rollouts)

    async def __call__(self, run: Run) -> None:
        """See Agent."""
        try:
            await self._agent(run)
        finally:
            self._num_done += 1
            self._watch("rollouts", self._num_done, self._num_rollouts)


def sampling_agent(model: str, temperature: float, max_tokens: int = MAX_TOKENS) -> Any:
    """An agent on the gateway that keeps token ids and logprobs, which is what training needs."""
    return create_agent(
        model,
        completion_kwargs={
            "temperature": temperature,
            "max_tokens": max_tokens,
            "extra_body": {"return_token_ids": True},
        },
    )


def samples_of(run: Run) -> list[TrajectorySample]:
    """The turns of a rollout, as the trainer takes them; empty when sampling failed."""
    samples = run.trace.collect(lambda step: step.sample if isinstance(step, AgentStep) else None)
    return [
        TrajectorySample(
            prompt_token_ids=sample.prompt_token_ids or None,
            prompt_chunks=sample.prompt_chunks,
            output_token_ids=sample.output_token_ids,
            output_logprobs=sample.output_logprobs,
        )
        for sample in samples
        if sample.output_token_ids
    ]


def complete_groups(runs: Sequence[Run], group_size: int) -> list[Run]:
    """Only groups in which every rollout has tokens and a grade: a group's mean is the baseline of each member.

    A rollout whose sampling failed is still graded, with no answer; training on its reward would teach the outage.
    """
    groups = [runs[start : start + group_size] for start in range(0, len(runs), group_size)]
    return [run for group in groups if all(map(is_usable, group)) for run in group]


def is_usable(run: Run) -> bool:
    """Whether this rollout can be trained on."""
    return bool(samples_of(run)) and not run.grade.is_error and not run.trace.is_error


def without_reward(run: Run) -> TrajectoryPayload:
    """The same tokens with reward 0, for the control."""
    return TrajectoryPayload(samples=samples_of(run), reward=0.0, trace_id=run.trace_id)


def count_tokens(run: Run) -> int:
    """Tokens of prompts and answers."""
    return sum(len(s.prompt_token_ids or ()) + len(s.output_token_ids) for s in samples_of(run))


def first_error(runs: Sequence[Run]) -> str:
    """What went wrong, for a person to read."""
    return next((str(run.trace.error) for run in runs if run.trace.is_error), "no error was recorded")
