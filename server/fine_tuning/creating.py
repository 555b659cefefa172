"""Makes a job: reads its files, forks the base where one is named, and starts the run.

All that can be wrong with the request is found before the fork is made. A run that is refused after that takes its fork
with it.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog import forks, repository
from server.catalog.heads import Heads
from server.catalog.service import no_such_model
from server.catalog.types import ForkRequest
from server.environments.builtin import ensure_builtin
from server.files import service as files
from server.files.types import StoredFile
from server.fine_tuning import reading
from server.fine_tuning.examples import read_examples
from server.fine_tuning.graded_tasks import read_tasks
from server.fine_tuning.hyperparameters import reinforcement_config, supervised_config
from server.fine_tuning.requests import JobRequest, Reinforcement, Supervised
from server.fine_tuning.types import SOURCE, Job, JobDetails
from server.principals.callers import Caller
from server.runs.creating import Origin, create
from server.runs.defaults import RunDefaults
from server.runs.settings import HeldOutRequest, InlineTask, InlineTaskset, RunConfig, RunRequest
from server.training.collaborators import Training
from server.uploads.upload_parser import UploadParser
from store.blob_stores import BlobStore
from store.blob_stores.threads import in_blob_thread
from store.tables import ModelRow
from wire.errors import InvalidRequest, NotFound
from wire.graders.shapes import Grader, models_of
from wire.graders.tasks import GRADED_ENVIRONMENT
from wire.lora import LoraConfig

MAX_FILE_BYTES = 64 * 1024**2
_UNNAMEABLE = re.compile(r"[^A-Za-z0-9._-]+")
_MOST_OF_A_NAME = 40
_GRADED_ELSEWHERE = (
    "the lines of training_file name tasks of environments, which grade them: the grader of this job is kept, and "
    "grades nothing"
)


@dataclass(frozen=True, slots=True)
class FineTuning:
    """What making a job takes."""

    training: Training
    heads: Heads
    blobs: BlobStore
    parser: UploadParser
    default_lora: LoraConfig
    run_defaults: RunDefaults


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and the ids of the files in it. `key`: its Idempotency-Key. `is_retry`: its client says that it sends
    the request again."""

    request: JobRequest
    training_file: UUID | None
    validation_file: UUID | None
    key: str | None = None
    is_retry: bool = False


@dataclass(frozen=True, slots=True)
class _Made:
    """Of the files and the method."""

    tasks: list[InlineTask]
    config: RunConfig
    held_out: HeldOutRequest | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Plan:
    request: RunRequest
    details: JobDetails
    notes: tuple[str, ...]


async def create_job(services: FineTuning, caller: Caller, asked: Asked) -> Job:
    """The job, queued. A repeated request is answered with the job that it made.

    Raises InvalidRequest for what is wrong with the request, a line or the grader, NotFound for the model or a file,
    Conflict for a model that is being trained, and what forking raises.
    """
    digest = _digest(asked)
    database = services.training.database
    async with database.session() as session:
        if (known := await reading.repeated(session, caller, digest, asked.key, is_retry=asked.is_retry)) is not None:
            return known
        found = await repository.find_model(session, caller.team_id, asked.request.model)
        if found is None:
            raise no_such_model(asked.request.model)
        model, base, _ = found
        caller.require_model(model.id, model.slug)
        training = await _file(session, caller, asked.training_file, "training_file")
        held_out = await _validation_file(session, caller, asked)
    plan = await _planned(services, caller, asked, model, base or model, training, held_out, digest)
    return await _started(services, caller, asked, model, plan)


async def _planned(
    services: FineTuning,
    caller: Caller,
    asked: Asked,
    model: ModelRow,
    base: ModelRow,
    training: StoredFile,
    held_out: StoredFile | None,
    digest: str,
) -> _Plan:
    request = asked.request
    method = request.chosen
    seed = request.seed if request.seed is not None else secrets.randbelow(2**31)
    if method.reinforcement is not None:
        made = await _reinforced(services, caller, base, training, held_out, method.reinforcement, seed)
    else:
        made = await _imitated(services, base, training, held_out, method.supervised or Supervised(), seed)
    details = JobDetails(
        model=model.slug,
        training_file=training.id,
        validation_file=held_out.id if held_out else None,
        method=method.model_dump(mode="json", exclude_none=True),
        seed=seed,
        metadata=request.metadata or {},
        request_digest=digest,
    )
    run = RunRequest(
        model=str(model.id),
        taskset=InlineTaskset(name=_taskset_name(training), tasks=made.tasks),
        config=made.config,
        held_out=made.held_out,
    )
    return _Plan(run, details, made.notes)


async def _reinforced(
    services: FineTuning,
    caller: Caller,
    base: ModelRow,
    training: StoredFile,
    held_out: StoredFile | None,
    method: Reinforcement,
    seed: int,
) -> _Made:
    await _refuse_unknown_models(services, caller, method.grader)
    grader = method.grader.model_dump(mode="json", exclude_none=True)
    tasks = await _read(services, training, "training_file", read_tasks, training.kind, grader)
    evaluation = None
    if held_out is not None:
        held_out_tasks = await _read(services, held_out, "validation_file", read_tasks, held_out.kind, grader)
        evaluation = _held_out(held_out, held_out_tasks, method)
    config = reinforcement_config(method.hyperparameters, len(tasks), seed, *_of(services, base, len(tasks)))
    return _Made(tasks, config, evaluation, (_GRADED_ELSEWHERE,) if training.kind == "tasks" else ())


async def _imitated(
    services: FineTuning,
    base: ModelRow,
    training: StoredFile,
    held_out: StoredFile | None,
    method: Supervised,
    seed: int,
) -> _Made:
    if held_out is not None:
        raise InvalidRequest(
            "validation_file is for the method 'reinforcement', which evaluates by its grader; leave it out",
            param="validation_file",
        )
    examples = await _read(services, training, "training_file", read_examples, training.kind)
    config = supervised_config(method.hyperparameters, len(examples), seed, *_of(services, base, len(examples)))
    return _Made(examples, config)


def _of(services: FineTuning, base: ModelRow, num_tasks: int) -> tuple[int | None, RunConfig]:
    """The context of a base, and the operator's defaults for it."""
    defaults = services.run_defaults.laid_under(RunConfig(), base.slug, num_tasks)
    return (base.info or {}).get("context_length"), defaults


async def _started(services: FineTuning, caller: Caller, asked: Asked, model: ModelRow, plan: _Plan) -> Job:
    """The run, of the model itself or of a new fork of a base."""
    async with services.training.database.session() as session:
        await ensure_builtin(session, GRADED_ENVIRONMENT)
    fork_id = None
    if model.team_id is None:
        fork_id = await _forked(services, caller, model, asked.request.suffix)
        plan = replace(plan, request=plan.request.model_copy(update={"model": str(fork_id)}))
    elif asked.request.suffix is not None:
        raise InvalidRequest(
            f"suffix names a new fork, and {model.slug!r} is trained as it is; leave it out, or name a base",
            param="suffix",
        )
    origin = Origin(SOURCE, plan.details.model_dump(mode="json"), plan.notes, gives_examples=True)
    try:
        created = await create(services.training, caller, plan.request, asked.key, origin, services.run_defaults)
    except BaseException:
        if fork_id is not None:
            async with services.training.database.session() as session:
                await forks.take_back(session, caller, fork_id)
        raise
    return Job(created.run, plan.details)


async def _forked(services: FineTuning, caller: Caller, base: ModelRow, suffix: str | None) -> UUID:
    named = _UNNAMEABLE.sub("-", base.slug.rpartition("/")[2])[:_MOST_OF_A_NAME].strip("-.")
    name = "-".join(filter(None, ("ft", named, suffix, secrets.token_hex(4))))
    request = ForkRequest(source_model_id=str(base.id), name=name)
    await forks.save_source(services.heads, caller, request)
    async with services.training.database.session() as session:
        return (await forks.fork(session, caller, request, services.default_lora)).id


async def _file(session: AsyncSession, caller: Caller, file_id: UUID | None, field: str) -> StoredFile:
    try:
        return await files.find(session, caller, file_id)
    except NotFound as error:
        raise InvalidRequest(f"{field}: {error.message}", param=field) from None


async def _validation_file(session: AsyncSession, caller: Caller, asked: Asked) -> StoredFile | None:
    if asked.request.validation_file is None:
        return None
    return await _file(session, caller, asked.validation_file, "validation_file")


async def _read(
    services: FineTuning, file: StoredFile, field: str, work: Callable[..., list[InlineTask]], *args: Any
) -> list[InlineTask]:
    """What `work` makes of a file's content, these arguments, and the field."""
    if file.num_bytes > MAX_FILE_BYTES:
        raise InvalidRequest(f"{field} has {file.num_bytes} bytes; a job takes {MAX_FILE_BYTES}", param=field)
    content = await in_blob_thread(services.blobs, services.blobs.get, file.blob)
    try:
        return await services.parser.read(content, work, *args, field)
    except InvalidRequest as error:
        error.param = field
        raise


async def _refuse_unknown_models(services: FineTuning, caller: Caller, grader: Grader) -> None:
    async with services.training.database.session() as session:
        for name in sorted(models_of(grader)):
            found = await repository.find_model(session, caller.team_id, name)
            if found is None:
                raise InvalidRequest(
                    f"method.reinforcement.grader names the model {name!r}, which is not here; see 'hud models list'",
                    param="method",
                )
            caller.require_model(found[0].id, found[0].slug)


def _held_out(file: StoredFile, tasks: list[InlineTask], reinforcement: Reinforcement) -> HeldOutRequest:
    asked = reinforcement.hyperparameters
    said = {"every": asked.eval_interval, "group_size": asked.eval_samples}
    return HeldOutRequest.model_validate(
        {
            "taskset": InlineTaskset(name=_taskset_name(file), tasks=tasks),
            **{name: value for name, value in said.items() if value != "auto"},
        }
    )


def _taskset_name(file: StoredFile) -> str:
    shown = "".join(character for character in file.filename if character.isprintable()).strip()
    return shown[:100] or f"file {file.id.hex[:8]}"


def _digest(asked: Asked) -> str:
    return hashlib.sha256(json.dumps(asked.request.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
