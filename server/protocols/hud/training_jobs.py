"""`hud rl` of hud-python 0.5: it sends tasks to be trained on, and asks how that goes."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.fine_tuning import effort_jobs
from server.fine_tuning.effort_jobs import EffortJob
from server.fine_tuning.requests import Effort
from server.http.authentication import CallerDep
from server.http.context import ContextDep
from server.http.request_body import UPLOAD
from server.protocols.hud.shared.routing import HudRouter
from server.runs.settings import MAX_TASKS, InlineTask
from server.runs.types import Run, State
from server.values.closed_requests import Closed
from server.values.validation_messages import first_problem
from wire.errors import InvalidRequest

router = HudRouter(tags=["hud rl"])

_STATUS: dict[State, str] = {"completed": "succeeded", "stopped": "succeeded"}
_OLDER = "tasks of MCP environments are not offered; write the environment for hud 0.6.21 and run 'hud deploy' with it"
_Name = Annotated[str, Field(min_length=1, max_length=500)]


class SentEnvironment(BaseModel):
    """Where a task is from. `include` and `exclude` name tools of MCP environments, which are not offered."""

    model_config = ConfigDict(extra="allow")

    name: _Name
    include: None = None
    exclude: None = None


class SentTask(BaseModel):
    """A task as hud-python 0.5 dumps it. `validation`, `columns` and `metadata` are for its other commands."""

    env: SentEnvironment
    scenario: _Name
    slug: _Name | None = None
    args: dict[str, Any] | None = None
    agent_config: dict[str, Any] | None = None


class Dataset(Closed):
    """What is trained on."""

    tasks: list[Any] = Field(min_length=1, max_length=MAX_TASKS)


class Parameters(Closed):
    """How much effort an answer may take."""

    reasoning_effort: Effort = "medium"


class JobConfig(Closed):
    """All that can be chosen."""

    parameters: Parameters = Field(default_factory=Parameters)


class TrainingJobRequest(Closed):
    """A model, by id, slug or name, and tasks."""

    model_id: _Name
    dataset: Dataset
    config: JobConfig = Field(default_factory=JobConfig)


class TrainedModel(BaseModel):
    """The model that a job trains."""

    id: str
    name: str


class TrainingJob(BaseModel):
    """A job that was made."""

    job_id: str
    model: TrainedModel
    status: str


class RawStatus(BaseModel):
    """How a job goes. `fine_tuned_model`: once it has succeeded."""

    job_id: str
    model: TrainedModel
    status: str
    state: State
    fine_tuned_model: str | None
    step: int
    steps: int
    reward: float | None
    held_out_score: float | None
    error: str | None
    stop_reason: str | None
    waiting_for: str | None
    created_at: str
    ended_at: str | None


@router.post("/training/jobs", dependencies=[Depends(UPLOAD)])
@router.post("/v1/training/jobs", dependencies=[Depends(UPLOAD)], include_in_schema=False)
async def start_job(context: ContextDep, caller: CallerDep, body: TrainingJobRequest) -> TrainingJob:
    """Train a model on tasks, with defaults. The same request again within a minute is answered alike."""
    tasks = [_task(index, task) for index, task in enumerate(body.dataset.tasks)]
    asked = EffortJob(body.model_id, tasks, body.config.parameters.reasoning_effort)
    run = await effort_jobs.start(context.training, context.run_defaults, caller, asked)
    return TrainingJob(job_id=str(run.id), model=_model(run), status=_status(run))


@router.get("/training/jobs/{job_or_model}/raw-status")
@router.get("/v1/training/jobs/{job_or_model}/raw-status", include_in_schema=False)
async def raw_status(context: ContextDep, caller: CallerDep, job_or_model: str) -> RawStatus:
    """How a job goes, by its id; or the newest of a model."""
    async with context.database.session() as session:
        run = await effort_jobs.find(session, caller, job_or_model)
    return RawStatus(
        job_id=str(run.id),
        model=_model(run),
        status=_status(run),
        state=run.state,
        fine_tuned_model=run.model if _status(run) == "succeeded" else None,
        step=run.step,
        steps=run.steps,
        reward=run.reward,
        held_out_score=run.held_out_score,
        error=run.error,
        stop_reason=run.stop_reason,
        waiting_for=run.waiting_for,
        created_at=run.created_at.isoformat(),
        ended_at=run.ended_at.isoformat() if run.ended_at else None,
    )


def _task(index: int, sent: Any) -> InlineTask:
    """The task. Raises InvalidRequest for one of an older kind, or that is none."""
    where = f"dataset.tasks[{index}]"
    if not isinstance(sent, dict) or "mcp_config" in sent or "prompt" in sent:
        raise InvalidRequest(f"{where}: {_OLDER}")
    try:
        task = SentTask.model_validate(sent)
    except ValidationError as error:
        raise InvalidRequest(f"{where}: {first_problem(error.errors(include_url=False), sent)}") from None
    prompt = (task.agent_config or {}).get("system_prompt")
    return InlineTask(
        env=task.env.name,
        id=task.scenario.removeprefix(f"{task.env.name}:"),
        args=task.args or {},
        slug=task.slug,
        agent_config={"system_prompt": prompt} if isinstance(prompt, str) and prompt else None,
    )


def _model(run: Run) -> TrainedModel:
    return TrainedModel(id=str(run.model_id), name=run.model)


def _status(run: Run) -> str:
    return _STATUS.get(run.state, run.state)
