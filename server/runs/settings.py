"""What a run is asked to do, with the default of everything that is not said. Unknown keys are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, FailFast, Field, model_validator

from server.values.closed_requests import Closed
from server.values.texts import Name
from wire.bounded import FEW_ENTRIES

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Reference = Annotated[str, Field(min_length=1, max_length=512)]

MAX_ROLLOUTS_A_STEP = 65_536
MAX_TASKS = 100_000


class Frozen(Closed):
    """Settings that nobody changes once the run is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RunConfig(Frozen):
    """How a run trains.

    method: `supervised` imitates examples in the place of tasks, and has no rollouts: fine-tuning jobs alone make such
    runs. group_size: rollouts of a task. tasks_per_step: null: all of the taskset, in epochs shuffled by `seed`.
    lr_schedule: what the learning rate does after `warmup_steps`, over which it grows linearly: `linear` and `cosine`
    fall to 0 at the last step. kl_coef: weight of the KL towards the start weights, where those are the base's own.
    num_substeps: into so many parts a batch is cut for its forward passes; there is one optimizer step all the same.
    rollout_tries: how often a rollout that failed is tried in all. min_group: a group with fewer usable rollouts is
    dropped; null: group_size. max_policy_lag: 0: rollouts of a step begin when the step before is done; else they may
    begin so many steps earlier. save_steps: every n-th checkpoint is pinned, the first, the best and the last too; 0:
    none is, and the retention policy decides. `spread` prefers tasks whose groups still disagree.
    """

    method: Literal["reinforcement", "supervised"] = "reinforcement"
    steps: int = Field(default=50, ge=1, le=10_000)
    group_size: int = Field(default=8, ge=2, le=1024)
    tasks_per_step: int | None = Field(default=None, ge=1, le=MAX_ROLLOUTS_A_STEP)
    seed: int = Field(default=0, ge=0, lt=2**31)
    learning_rate: float = Field(default=1e-5, ge=0, le=1, allow_inf_nan=False)
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0, le=10_000)
    weight_decay: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False)
    loss_fn: Annotated[str, Field(max_length=100)] = "importance_sampling"
    loss_fn_config: Annotated[dict[str, Finite], FEW_ENTRIES] | None = None
    kl_coef: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    num_substeps: int = Field(default=1, ge=1, le=1024)
    reward_scale: Finite = 1.0
    max_turns: int = Field(default=10, ge=1, le=1000)
    max_tokens: int = Field(default=1024, ge=1, le=1_000_000)
    temperature: Finite = 1.0
    rollout_timeout_s: float = Field(default=900.0, gt=0, le=86_400, allow_inf_nan=False)
    rollout_tries: int = Field(default=2, ge=1, le=10)
    max_concurrent: int = Field(default=32, ge=1, le=4096)
    save_steps: int = Field(default=1, ge=0, le=10_000)
    min_group: int | None = Field(default=None, ge=1, le=1024)
    curriculum: Literal["none", "spread"] = "none"
    max_policy_lag: int = Field(default=0, ge=0, le=16)

    @model_validator(mode="after")
    def _fits(self) -> RunConfig:
        if self.temperature != 1.0:
            raise ValueError(
                f"temperature is {self.temperature}: it must be 1, for the trainer's logprobs are those at temperature "
                "1, and rollouts at another would be off-policy"
            )
        if self.min_group is not None and self.min_group > self.group_size:
            raise ValueError(f"min_group is {self.min_group}, more than group_size, which is {self.group_size}")
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}, more than steps, which is {self.steps}")
        return self

    @property
    def smallest_group(self) -> int:
        """The fewest usable rollouts with which a group is trained on."""
        return self.min_group or self.group_size


class InlineTask(Frozen):
    """A task of a taskset that comes with the request: a task id of an environment, and its arguments."""

    env: Reference
    id: Reference
    args: dict[str, Any] = Field(default_factory=dict[str, Any])
    slug: Reference | None = None
    agent_config: dict[str, Any] | None = None
    verifier: dict[str, Any] | None = None
    runtime_config: dict[str, Any] | None = None


class InlineTaskset(Frozen):
    """A taskset that comes with the request."""

    name: Name
    tasks: Annotated[list[InlineTask], FailFast(), Field(min_length=1, max_length=MAX_TASKS)]


TasksetChoice = Reference | InlineTaskset


class HeldOutRequest(Frozen):
    """An evaluation before the first step, after every `every` steps, and after the last: greedy rollouts of a taskset
    that is never trained on. benchmark: the name under which the scores are kept; null: the taskset's."""

    taskset: TasksetChoice
    every: int = Field(default=5, ge=1, le=10_000)
    group_size: int = Field(default=1, ge=1, le=64)
    benchmark: Name | None = None


class StopRules(Frozen):
    """When a run ends before its last step.

    held_out_drops: the held-out score fell so often in a row, each time by more than min_delta. reward_at_least: the
    mean reward of a step. max_tokens: tokens of all its rollouts. max_seconds: since it started. max_rollout_errors:
    the largest share of a step's rollouts that may fail for good; more is a failure of the run. promote: with a
    held-out taskset, which checkpoint is the head in the end.
    """

    held_out_drops: int = Field(default=2, ge=1, le=1000)
    min_delta: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    reward_at_least: Finite | None = None
    max_tokens: int | None = Field(default=None, ge=1, lt=2**63)
    max_seconds: Positive | None = None
    max_rollout_errors: float = Field(default=0.5, ge=0, le=1, allow_inf_nan=False)
    promote: Literal["best", "last"] = "best"


class RunRequest(Frozen):
    """A run to be made. `model`: id, slug or name."""

    model: Reference
    taskset: TasksetChoice
    name: Name | None = None
    metadata: dict[str, Any] | None = None
    config: RunConfig = RunConfig()
    held_out: HeldOutRequest | Reference | None = None
    stop: StopRules = StopRules()

    @property
    def held_out_request(self) -> HeldOutRequest | None:
        """A name alone stands for that taskset with the defaults."""
        return HeldOutRequest(taskset=self.held_out) if isinstance(self.held_out, str) else self.held_out


class HeldOut(Frozen):
    """What is kept of a `HeldOutRequest`; its tasks are kept beside it."""

    taskset: str
    every: int
    group_size: int
    benchmark: str
    num_tasks: int
