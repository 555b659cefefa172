"""Training runs, and what a path stands for."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from server.catalog.bases import public_name
from server.checkpoint_names import runs
from server.checkpoint_names.listing import checkpoints_of_run
from server.checkpoint_names.resolving import resolve_path
from server.http.authentication import CallerDep, ModelUserDep
from server.http.context import ContextDep
from server.protocols.tinker.records.schemas import (
    AccessScope,
    Checkpoint,
    Cursor,
    LimitParam,
    OffsetParam,
    TrainingRun,
)
from server.protocols.tinker.shared.routing import TinkerRouter
from server.protocols.tinker.shared.schemas import TinkerReply, TinkerRequest

router = TinkerRouter()


class TrainingRuns(TinkerReply):
    """A page of runs, newest first."""

    training_runs: list[TrainingRun]
    cursor: Cursor


class RunCheckpoints(TinkerReply):
    """All checkpoints of a run, newest first."""

    checkpoints: list[Checkpoint]


class WeightsInfoRequest(TinkerRequest):
    """Of which checkpoint."""

    tinker_path: str


class WeightsInfo(TinkerReply):
    """What a model has to be for a checkpoint to be loaded into it."""

    base_model: str
    is_lora: bool = True
    lora_rank: int | None
    train_attn: bool
    train_mlp: bool
    train_unembed: bool


@router.get("/training_runs")
async def list_training_runs(
    context: ContextDep,
    caller: CallerDep,
    limit: LimitParam = 20,
    offset: OffsetParam = 0,
    access_scope: AccessScope = "owned",
    project_id: Annotated[str | None, Query(max_length=200)] = None,
) -> TrainingRuns:
    """The team's runs and other models, newest first."""
    async with context.database.session() as session:
        found, total = await runs.list_runs(session, caller, limit, offset, project_id)
        shown = [TrainingRun.of(run, caller.team) for run in found]
    return TrainingRuns(training_runs=shown, cursor=Cursor(offset=offset, limit=limit, total_count=total))


@router.get("/training_runs/{run}/checkpoints")
async def list_run_checkpoints(context: ContextDep, caller: CallerDep, run: str) -> RunCheckpoints:
    """What was saved of a run. The paths name it as the request does: `tinker checkpoint info` looks for its own."""
    async with context.database.session() as session:
        found = await checkpoints_of_run(session, caller, run)
        return RunCheckpoints(checkpoints=[Checkpoint.of(named, run) for named in found])


@router.get("/training_runs/{run}")
async def get_training_run(
    context: ContextDep, caller: CallerDep, run: str, access_scope: AccessScope = "owned"
) -> TrainingRun:
    """One run, by its id, its model's id or slug."""
    async with context.database.session() as session:
        return TrainingRun.of(await runs.describe_run(session, caller, run), caller.team)


@router.post("/weights_info")
async def weights_info(context: ContextDep, caller: ModelUserDep, body: WeightsInfoRequest) -> WeightsInfo:
    """What a model has to be to take a checkpoint; asked for by the SDK before it resumes from one."""
    async with context.database.session() as session:
        found = await resolve_path(session, caller, body.tinker_path, "reading")
    lora = found.model.lora or {}
    return WeightsInfo(
        base_model=public_name(found.base),
        lora_rank=lora.get("rank"),
        train_attn=lora.get("attn", True),
        train_mlp=lora.get("mlp", True),
        train_unembed=lora.get("unembed", False),
    )
