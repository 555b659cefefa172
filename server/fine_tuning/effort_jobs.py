"""Runs as `hud rl` of hud-python 0.5 asks for them: tasks, a model, and how much effort an answer may take.

It has no other options, sends no key with a request, and shows what it is answered. So the rest are the run's defaults,
and the same request again within a minute is answered with the run that it made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog import repository
from server.catalog.repository import as_uuid
from server.catalog.service import no_such_model
from server.fine_tuning.hyperparameters import answer_tokens
from server.fine_tuning.requests import Effort
from server.principals.callers import Caller
from server.runs.creating import Origin, create
from server.runs.defaults import RunDefaults
from server.runs.reading import describe, find_run, newest_of_model
from server.runs.same_tasks import name_of_same_tasks
from server.runs.settings import InlineTask, InlineTaskset, RunConfig, RunRequest
from server.runs.types import Run
from server.training.collaborators import Training
from store.tables import ModelRow, RunRow
from wire.errors import NotFound

SOURCE = "hud_rl"
_SAME_WITHIN = timedelta(minutes=1)
_UNNAMED = "hud rl"
"""The taskset's name where the tasks are those of no taskset of the team, as when they came from a file."""


@dataclass(frozen=True, slots=True)
class EffortJob:
    """What is asked for. `model`: id, slug or name."""

    model: str
    tasks: Sequence[InlineTask]
    effort: Effort


async def start(training: Training, defaults: RunDefaults, caller: Caller, asked: EffortJob) -> Run:
    """The run. Raises what `create` raises: Conflict for a model that is being trained, naming the run."""
    digest = _digest(asked)
    async with training.database.session() as session:
        found = await repository.find_model(session, caller.team_id, asked.model)
        if found is None:
            raise no_such_model(asked.model)
        model, base, _ = found
        if (known := await _known(session, caller, model, digest)) is not None:
            return known
    own = base or model
    usual = defaults.laid_under(RunConfig(), own.slug, len(asked.tasks))
    max_tokens = answer_tokens(asked.effort, (own.info or {}).get("context_length"), usual)
    config = RunConfig() if max_tokens == usual.max_tokens else RunConfig(max_tokens=max_tokens)
    async with training.database.session() as session:
        name = await name_of_same_tasks(session, caller.team_id, asked.tasks) or _UNNAMED
    taskset = InlineTaskset(name=name, tasks=list(asked.tasks))
    request = RunRequest(model=str(model.id), taskset=taskset, config=config)
    origin = Origin(SOURCE, {"request_digest": digest, "effort": asked.effort})
    return (await create(training, caller, request, origin=origin, defaults=defaults)).run


async def find(session: AsyncSession, caller: Caller, reference: str) -> Run:
    """A run by its id, or the newest of the model that is called so. Raises NotFound."""
    run_id = as_uuid(reference)
    if run_id is not None:
        try:
            return describe(*await find_run(session, caller, run_id))
        except NotFound:
            pass
    found = await repository.find_model(session, caller.team_id, reference)
    if found is None:
        raise NotFound(f"there is no training job and no model {reference[:200]!r}; see 'headway runs list'")
    caller.require_model(found[0].id, found[0].slug)
    return await newest_of_model(session, caller, found[0])


async def _known(session: AsyncSession, caller: Caller, model: ModelRow, digest: str) -> Run | None:
    query = select(RunRow).where(
        RunRow.team_id == caller.team_id,
        RunRow.model_id == model.id,
        RunRow.source == SOURCE,
        RunRow.key_id == caller.key_id,
        RunRow.details["request_digest"].as_string() == digest,
        func.clock_timestamp() - RunRow.created_at < _SAME_WITHIN,
    )
    run = (await session.scalars(query.order_by(RunRow.created_at.desc()).limit(1))).first()
    if run is None:
        return None
    caller.require_model(model.id, model.slug)
    return describe(run, model)


def _digest(asked: EffortJob) -> str:
    said: list[Any] = [asked.model, asked.effort, *(task.model_dump(mode="json") for task in asked.tasks)]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
