"""Makes a run. Everything that can be refused is refused before anything is written, naming the culprit."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from psycopg.errors import UniqueViolation
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of, record
from server.catalog.model_claims import live_run_of, run_in_the_way
from server.catalog.pausing import refuse_paused
from server.principals.callers import Caller
from server.runs.defaults import RunDefaults
from server.runs.events import add_event
from server.runs.reading import describe
from server.runs.settings import MAX_ROLLOUTS_A_STEP, HeldOut, RunConfig, RunRequest
from server.runs.tasks import FrozenTaskset, freeze
from server.runs.types import Run
from server.training.admission import TrainedModel, open_model
from server.training.checks import check_loss
from server.training.collaborators import Training
from server.values.sanitizing import storable_json
from store.tables import JobRow, ModelRow, RunRow
from wire.engine import LossChoice
from wire.errors import Conflict, Forbidden, HeadwayError, InvalidRequest

MOST_KEY_CHARACTERS = 128
KEY_KEPT_FOR = timedelta(hours=24)
KL_OPTION = "kl_penalty_coef"
"""The loss option that is the KL towards the base weights, as a per-token penalty."""


@dataclass(frozen=True, slots=True)
class Created:
    """`is_new`: False for a call that repeats one under the same Idempotency-Key."""

    run: Run
    is_new: bool


@dataclass(frozen=True, slots=True)
class Origin:
    """By which protocol a run was asked for. `details`: what that keeps of the request; `notes`: what its user has to
    know, as the run's first events; `gives_examples`: its tasks may be examples (`server.runs.loop.examples`), which it
    has checked."""

    source: str
    details: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()
    gives_examples: bool = False


_OVER_RUNS = Origin("runs")
_OWN_DEFAULTS = RunDefaults()


async def create(
    training: Training,
    caller: Caller,
    request: RunRequest,
    idempotency_key: str | None = None,
    origin: Origin = _OVER_RUNS,
    defaults: RunDefaults = _OWN_DEFAULTS,
) -> Created:
    """The run, queued; a server begins with it at once. `defaults`: the operator's, for what the request does not say.

    Raises NotFound for a model, taskset or environment that is not here, Forbidden for a model that cannot be trained,
    InvalidRequest for whatever does not fit, Conflict for a model that another run trains, and for a key that was used
    for another body.
    """
    if idempotency_key is not None and not (
        1 <= len(idempotency_key) <= MOST_KEY_CHARACTERS and idempotency_key.isprintable()
    ):
        raise InvalidRequest(f"Idempotency-Key must be 1 to {MOST_KEY_CHARACTERS} printable characters")
    digest = _digest(request, origin.source)
    if (known := await _known(training, caller, idempotency_key, digest)) is not None:
        return known
    try:
        found = await open_model(training, caller, request.model)
        async with training.database.session() as session:
            return Created(await _make(session, found, request, idempotency_key, digest, origin, defaults), True)
    except (UniqueViolation, IntegrityError):  # a racing call was first
        if (known := await _known(training, caller, idempotency_key, digest)) is not None:
            return known
        raise Conflict(f"the model {request.model!r} was given to another run at this moment; see its runs") from None


async def _make(
    session: AsyncSession,
    found: TrainedModel,
    request: RunRequest,
    idempotency_key: str | None,
    digest: bytes,
    origin: Origin,
    defaults: RunDefaults,
) -> Run:
    caller = found.caller
    model = await session.get_one(ModelRow, found.id)
    _refuse_numbered(model)
    refuse_paused(found.admission)
    if (other := await live_run_of(session, model.id)) is not None:
        raise run_in_the_way(model.slug, other)
    _refuse_examples(request.config, origin)
    is_supervised = request.config.method == "supervised"
    tasks = await freeze(session, caller, request.taskset, "taskset", are_examples=is_supervised)
    config = defaults.laid_under(request.config, found.admission.base_slug or "", len(tasks.tasks))
    _check_fit(config, found, model)
    asked = request.held_out_request
    held_out_tasks = await freeze(session, caller, asked.taskset, "held_out.taskset") if asked is not None else None
    config = _checked(config, tasks)
    held_out = None
    if asked is not None and held_out_tasks is not None:
        held_out = HeldOut(
            taskset=held_out_tasks.name,
            every=asked.every,
            group_size=asked.group_size,
            benchmark=asked.benchmark or held_out_tasks.name[:100],
            num_tasks=len(held_out_tasks.tasks),
        )
        if held_out.num_tasks * held_out.group_size > MAX_ROLLOUTS_A_STEP:
            raise InvalidRequest(f"held_out: an evaluation may have {MAX_ROLLOUTS_A_STEP} rollouts; use fewer tasks")
    run = RunRow(
        id=uuid.uuid4(),
        team_id=caller.team_id,
        key_id=caller.key_id,
        model_id=model.id,
        name=request.name,
        user_metadata=storable_json(request.metadata, "metadata") if request.metadata else None,
        source=origin.source,
        details=storable_json(dict(origin.details), "the request") if origin.details else None,
        idempotency_key=idempotency_key,
        request_digest=digest,
        taskset=tasks.name,
        num_tasks=len(tasks.tasks),
        tasks=tasks.text,
        held_out_tasks=held_out_tasks.text if held_out_tasks else None,
        config=config.model_dump(mode="json"),
        held_out=held_out.model_dump(mode="json") if held_out else None,
        stop=request.stop.model_dump(mode="json"),
        job_id=uuid.uuid4(),
        start_checkpoint_id=model.head_checkpoint_id,
        checkpoint_id=model.head_checkpoint_id,
        next_event=1,
    )
    session.add(run)
    session.add(_job(run, model))
    await session.flush()
    record(session, actor_of(caller), "start_run", team_id=run.team_id, subject_id=model.id, run=str(run.id))
    await add_event(session, run, "created", _created(run, config), _choices(run))
    for note in origin.notes:
        await add_event(session, run, "warning", note)
    await session.refresh(run, ["created_at", "state", "step"])
    return describe(run, model)


def _checked(config: RunConfig, tasks: FrozenTaskset) -> RunConfig:
    """The config in full. Raises InvalidRequest for what does not fit these tasks."""
    num_tasks = len(tasks.tasks)
    if config.tasks_per_step is not None and config.tasks_per_step > num_tasks:
        raise InvalidRequest(
            f"config.tasks_per_step is {config.tasks_per_step}, but the taskset {tasks.name!r} has {num_tasks} tasks"
        )
    config = config.model_copy(
        update={"tasks_per_step": config.tasks_per_step or num_tasks, "min_group": config.smallest_group}
    )
    num_rollouts = (config.tasks_per_step or num_tasks) * config.group_size
    if num_rollouts > MAX_ROLLOUTS_A_STEP:
        raise InvalidRequest(
            f"config: a step would have {num_rollouts} rollouts, and may have {MAX_ROLLOUTS_A_STEP}; set a smaller "
            "tasks_per_step or group_size"
        )
    if config.num_substeps > num_rollouts:
        raise InvalidRequest(
            f"config.num_substeps is {config.num_substeps}, but a step has {num_rollouts} rollouts; set a smaller one"
        )
    return config


def _check_fit(config: RunConfig, found: TrainedModel, model: ModelRow) -> None:
    """Raises InvalidRequest for what this model cannot do, whatever the tasks."""
    if config.max_tokens >= found.info.context_length:
        raise InvalidRequest(
            f"config.max_tokens is {config.max_tokens}, but the context of {found.admission.base_slug!r} has "
            f"{found.info.context_length} tokens, prompt included; set a smaller one"
        )
    loss_config = dict(config.loss_fn_config or {})
    if config.kl_coef:
        if model.head_checkpoint_id is not None:
            raise InvalidRequest(
                "config.kl_coef: the trainer computes the KL towards the base weights alone, and this model starts "
                "from a checkpoint of its own; leave it 0, or start from a fresh fork"
            )
        if KL_OPTION in loss_config:
            raise InvalidRequest(f"config.kl_coef and loss_fn_config.{KL_OPTION} are the same; send one of them")
        loss_config[KL_OPTION] = config.kl_coef
    try:
        check_loss(LossChoice(config.loss_fn, loss_config), 1, found.losses)
    except HeadwayError as error:
        raise InvalidRequest(f"config: {error.message}") from None


def _refuse_numbered(model: ModelRow) -> None:
    if model.session_id is not None:
        raise Forbidden(
            f"{model.slug!r} belongs to a client that numbers its own training calls; fork it, and start a run on the "
            "fork"
        )


def _refuse_examples(config: RunConfig, origin: Origin) -> None:
    if config.method == "supervised" and not origin.gives_examples:
        raise InvalidRequest(
            "config.method 'supervised' is for fine-tuning jobs, which bring examples: POST /v1/fine_tuning/jobs"
        )


def _job(run: RunRow, model: ModelRow) -> JobRow:
    name = f"run {run.name}" if run.name else f"run of {model.slug}"
    return JobRow(
        team_id=run.team_id,
        id=run.job_id,
        name=name,
        group_size=run.config["group_size"],
        is_evaluation=False,
    )


def _created(run: RunRow, config: RunConfig) -> str:
    if config.method == "supervised":
        return f"{config.steps} steps of {config.tasks_per_step} examples out of the {run.num_tasks} of {run.taskset!r}"
    return (
        f"{config.steps} steps of {config.tasks_per_step} tasks × {config.group_size} rollouts over the taskset "
        f"{run.taskset!r} ({run.num_tasks} tasks)"
    )


def _choices(run: RunRow) -> dict[str, Any]:
    return {"config": run.config, "held_out": run.held_out, "stop": run.stop}


def _digest(request: RunRequest, source: str) -> bytes:
    said = json.dumps([source, request.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()


async def _known(training: Training, caller: Caller, key: str | None, digest: bytes) -> Created | None:
    """The run that was made under this key in the last 24 hours. Raises Conflict where it was another request."""
    if key is None:
        return None
    async with training.database.session() as session:
        query = (
            select(RunRow, ModelRow, func.clock_timestamp() - RunRow.created_at)
            .join(ModelRow, ModelRow.id == RunRow.model_id)
            .where(RunRow.team_id == caller.team_id, RunRow.idempotency_key == key)
        )
        row = (await session.execute(query.with_for_update(of=RunRow))).first()
        if row is None:
            return None
        run, model, age = row
        if age > KEY_KEPT_FOR:
            run.idempotency_key = None
            return None
        caller.require_model(model.id, model.slug)
        if run.request_digest != digest:
            raise Conflict("the Idempotency-Key of this request was used for another run; send a new key")
        return Created(describe(run, model), False)


def new_held_out_job(run: RunRow, job_id: UUID, step: int, benchmark: str) -> JobRow:
    """The job of a held-out evaluation: scored, and never trained on."""
    name = f"run {run.name or run.id.hex[:8]}: {benchmark}, step {step}"
    return JobRow(
        team_id=run.team_id,
        id=job_id,
        name=name,
        group_size=(run.held_out or {}).get("group_size"),
        is_evaluation=True,
        benchmark=benchmark,
    )
