"""The tasks of a run: read from a taskset or the request, checked against the environments, frozen into the run."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.repository import as_uuid
from server.environments.finding import deployed_environment
from server.environments.manifests import check_task
from server.hosted_rollouts.checking import check_settings
from server.principals.callers import Caller
from server.runs.settings import InlineTask, InlineTaskset, TasksetChoice
from server.values.sanitizing import is_storable
from store.tasksets import contents_of, find_taskset, find_taskset_named
from wire.environment_names import normalized_name
from wire.errors import InvalidRequest, NotFound
from wire.process.off_loop import off_loop

_MAX_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Task:
    """A task of a run. `slug` is its own in the taskset."""

    slug: str
    environment: str
    id: str
    args: Mapping[str, Any]
    agent_config: Mapping[str, Any]
    verifier: Mapping[str, Any] | None
    runtime_config: Mapping[str, Any] | None


_Played = list[tuple[str, str, Mapping[str, Any]]]
"""Environment, task and arguments, of each that a rollout plays."""


@dataclass(frozen=True, slots=True)
class FrozenTaskset:
    """Name and tasks, and the text in which they are kept."""

    name: str
    tasks: Sequence[Task]
    text: str


async def freeze(
    session: AsyncSession, caller: Caller, choice: TasksetChoice, field: str, *, are_examples: bool = False
) -> FrozenTaskset:
    """The tasks of a taskset of the team, by name or id, or of the request. `field`: where it was asked for.
    `are_examples`: no environment plays them.

    Raises NotFound for a taskset or an environment that is not here, InvalidRequest for tasks that do not fit.
    """
    if isinstance(choice, InlineTaskset):
        name, contents = choice.name, [_content(task, index) for index, task in enumerate(choice.tasks)]
    else:
        name, contents = await _of_taskset(session, caller, choice, field)
    text = f"[{','.join(contents)}]"
    if len(text) > _MAX_BYTES:
        raise InvalidRequest(f"{field}: its tasks take more than {_MAX_BYTES} bytes; use a smaller taskset")
    tasks = read_tasks(text)
    _refuse_twins(tasks, field)
    if not are_examples:
        played = await off_loop(len(text), _all_played, tasks, field)
        await _check(session, caller, tasks, played, field)
    return FrozenTaskset(name, tasks, text)


def read_tasks(text: str) -> list[Task]:
    """What `freeze` wrote."""
    return [_task(content) for content in json.loads(text)]


def _task(content: Mapping[str, Any]) -> Task:
    verifier = content.get("verifier")
    return Task(
        slug=content["name"],
        environment=_environment_name(content["env"]),
        id=content["scenario"],
        args=content.get("args") or {},
        agent_config=content.get("agent_config") or {},
        verifier={**verifier, "env": _environment_name(verifier.get("env"))} if verifier is not None else None,
        runtime_config=content.get("runtime_config"),
    )


def _environment_name(environment: Any) -> Any:
    """Tasksets name it either way."""
    return environment.get("name") if isinstance(environment, dict) else environment


async def _of_taskset(session: AsyncSession, caller: Caller, named: str, field: str) -> tuple[str, Sequence[str]]:
    row = None
    if (taskset_id := as_uuid(named)) is not None:
        row = await find_taskset(session, caller.team_id, taskset_id)
    elif is_storable(named):
        row = await find_taskset_named(session, caller.team_id, named)
    if row is None:
        raise NotFound(f"{field}: the team has no taskset {named[:200]!r}; 'hud sync tasks NAME' makes one")
    contents = await contents_of(session, row.id)
    if not contents:
        raise InvalidRequest(f"{field}: the taskset {row.name!r} has no tasks; upload some first")
    return row.name, contents


def _content(task: InlineTask, index: int) -> str:
    """As a taskset keeps it."""
    more = {"agent_config": task.agent_config, "verifier": task.verifier, "runtime_config": task.runtime_config}
    said = {
        "name": task.slug or f"{task.id}-{index}",
        "env": task.env,
        "scenario": task.id,
        "args": task.args,
        **{name: value for name, value in more.items() if value is not None},
    }
    try:
        text = json.dumps(said, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError):
        raise InvalidRequest(
            f"taskset.tasks[{index}] holds NaN or an infinite number, or is nested too deeply; write the value as text"
        ) from None
    if not is_storable(json.dumps(said, ensure_ascii=False)):
        raise InvalidRequest(f"taskset.tasks[{index}] holds a character that cannot be stored")
    return text


def _refuse_twins(tasks: Sequence[Task], field: str) -> None:
    seen = set[str]()
    for task in tasks:
        if task.slug in seen:
            raise InvalidRequest(f"{field}: the slug {task.slug[:200]!r} is there twice; give each task its own")
        seen.add(task.slug)


async def _check(
    session: AsyncSession, caller: Caller, tasks: Sequence[Task], played: Sequence[_Played], field: str
) -> None:
    """Each environment is looked up once, each task held against what its serving version offers."""
    manifests = dict[str, tuple[str, Any]]()
    for task, each in zip(tasks, played, strict=True):
        for environment, task_id, args in each:
            name = normalized_name(environment)
            if name not in manifests:
                found = await deployed_environment(session, caller.team_id, environment)
                manifests[name] = (found.environment.name, found.build.manifest)
            shown, manifest = manifests[name]
            with _naming(field, task):
                check_task(manifest, shown, task_id, args)


def _all_played(tasks: Sequence[Task], field: str) -> list[_Played]:
    """Of each task, itself and the one that grades it, if there is one."""
    played = list[_Played]()
    for task in tasks:
        with _naming(field, task):
            grading = check_settings(task.args, task.agent_config, task.verifier, task.runtime_config).grading
        graded = [] if grading is None else [(grading.environment, grading.task, grading.args)]
        played.append([(task.environment, task.id, task.args), *graded])
    return played


@contextmanager
def _naming(field: str, task: Task) -> Generator[None]:
    try:
        yield
    except InvalidRequest as misfit:
        raise InvalidRequest(f"{field}, task {task.slug[:200]!r}: {misfit.message}") from None
