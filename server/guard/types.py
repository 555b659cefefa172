"""Held-out scores, the guard's rules and alarms, and the trainability report, as clients read and write them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from server.values.closed_requests import Closed
from server.values.texts import Name
from wire.bounded import FEW_ENTRIES

Finite = Annotated[float, Field(allow_inf_nan=False)]
Action = Literal["webhook", "pause", "rollback"]
AlarmState = Literal["noted", "pending", "done", "failed", "undone"]


class EvalRequest(Closed):
    """A held-out score from any harness. `checkpoint`: id or name of what was scored; left out: the head; "base": the
    base weights. `n`: how many problems; `stderr`: of the score, on its own scale."""

    benchmark: Name
    score: Finite
    n: int | None = Field(default=None, ge=1, lt=2**31)
    stderr: Finite | None = Field(default=None, ge=0)
    checkpoint: Annotated[str, Field(max_length=300)] | None = None
    higher_is_better: bool = True
    metadata: dict[str, Any] | None = None


class Eval(BaseModel):
    """A held-out score of one checkpoint (null: the base weights), and the training reward that stood beside it.

    `job_id`: the evaluation job that it sums up; null: it was posted. `mixed`: the job was served by several
    checkpoints, and this is the part of one of them. `training_reward`: of the step that made the checkpoint.
    """

    id: UUID
    benchmark: str
    score: float
    n: int | None
    stderr: float | None
    higher_is_better: bool
    checkpoint_id: UUID | None
    checkpoint_name: str | None
    step: int
    training_reward: float | None
    job_id: UUID | None
    mixed: bool
    metadata: dict[str, Any]
    created_at: datetime


class EvaluationMark(Closed):
    """Whether a job is an evaluation: it is scored, and not trained on. `benchmark`: the series that its score belongs
    to; left out: made from the job's name."""

    evaluation: bool = True
    benchmark: Name | None = None


class EvaluationJob(BaseModel):
    """A job as it was marked."""

    job_id: UUID
    evaluation: bool
    benchmark: str | None


class RuleSettings(Closed):
    """What a rule does, and from where on. Left out: the default. An alarm is kept and shown in any case."""

    enabled: bool = True
    actions: Annotated[list[Action], Field(fail_fast=True)] | None = Field(default=None, max_length=3)
    parameters: Annotated[dict[str, Finite], FEW_ENTRIES] = Field(default_factory=dict[str, float])


class GuardRequest(Closed):
    """A model's guard; what is left out gets its default. Only a team_admin or admin may set `webhook_url`."""

    rules: Annotated[dict[str, RuleSettings], FEW_ENTRIES] = Field(
        default_factory=dict[str, RuleSettings], max_length=50
    )
    eval_jobs: Annotated[list[Name], Field(fail_fast=True)] | None = Field(default=None, max_length=20)
    webhook_url: Annotated[str, Field(max_length=2000)] | None = None


class Rule(BaseModel):
    """A rule as it holds for a model."""

    enabled: bool
    actions: list[Action]
    parameters: dict[str, float]
    description: str


class Guard(BaseModel):
    """A model's guard in full. `eval_jobs`: patterns of the names of jobs that are evaluations."""

    rules: dict[str, Rule]
    eval_jobs: list[str]
    webhook_url: str | None


class Alarm(BaseModel):
    """Something that a rule found. `state`: noted (nothing was to be done), pending, done, failed, or undone.
    `outcome`: a sentence an action, on what came of it."""

    id: UUID
    rule: str
    message: str
    evidence: dict[str, Any]
    checkpoint_id: UUID | None
    step: int
    actions: list[Action]
    state: AlarmState
    outcome: dict[str, str]
    created_at: datetime
    acknowledged_at: datetime | None
    undone_at: datetime | None


class Period(BaseModel):
    """A tenth of the time that the report covers."""

    since: datetime
    num_rollouts: int
    num_groups: int
    reward_mean: float
    reward_spread: float | None
    signal: float | None


class TaskReport(BaseModel):
    """What a task taught. `reward_spread`: standard deviation within a group, mean over groups. `signal`: share of
    groups whose rewards were not all equal. Both null without a group of two. `over_time`: oldest first."""

    task: str
    num_rollouts: int
    num_groups: int
    reward_mean: float
    reward_spread: float | None
    signal: float | None
    advice: Literal["keep", "make_harder", "drop", "look", "unknown"]
    reason: str
    over_time: list[Period]


class TrainabilityReport(BaseModel):
    """Tasks by name; rollouts of evaluations are left out. `reward_min`, `reward_max`: over all of the model's."""

    items: list[TaskReport]
    reward_min: float | None
    reward_max: float | None
    next_cursor: str | None
