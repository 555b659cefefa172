"""`/tasksets/<id>`, which `hud sync` prints: its tasks with their arguments, and what they teach a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.repository import as_uuid
from server.guard.types import TaskReport
from server.http.context import ContextDep
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from server.pages.shared.sparkline import sparkline
from server.principals.callers import Caller
from server.tasksets.service import get_taskset
from server.trainability.report import trainability_of
from server.trainability.trained import trained_on
from server.values.sanitizing import is_storable
from store.tables import ModelRow
from store.tasksets import content_of, tasks_after
from wire.errors import NotFound
from wire.process.off_loop import off_loop

PAGE = 50
_MOST_BYTES = 8 * 1024
"""Of a task that is read for the list; larger ones are opened alone."""
_MOST_CHARACTERS = 240
_MOST_OPEN = 20_000
_MOST_MODELS = 50

router = PageRouter()

Index = Annotated[int, Query(ge=0, le=2**53)]
Slug = Annotated[str | None, Query(max_length=600)]


@dataclass(frozen=True, slots=True)
class ListedTask:
    """A line of the list. `args`: as JSON, cut; None: too much to be read here. `report`: None: nothing is known."""

    name: str
    env: str | None
    template: str | None
    args: str | None
    num_more: int
    num_bytes: int
    report: TaskReport | None
    spark: str


@router.get("/tasksets/{taskset_id}")
async def taskset_page(
    context: ContextDep,
    request: Request,
    visitor: VisitorDep,
    taskset_id: str,
    after: Index = 0,
    task: Slug = None,
    model: Slug = None,
) -> Response:
    """One taskset; `task`: one of its tasks in full; `model`: for which it is shown what the tasks taught."""
    found_id = as_uuid(taskset_id)
    if found_id is None:
        raise NotFound(f"there is no taskset {taskset_id[:100]!r}; see /tasksets")
    async with context.database.session() as session:
        taskset = await get_taskset(session, visitor.caller, found_id)
        rows = await tasks_after(session, found_id, after, PAGE + 1, _MOST_BYTES)
        names = [name for name, *_ in rows[:PAGE]]
        models = await _models(session, visitor.caller, names)
        chosen = next((one for one in models if model in (None, "", str(one.id))), None)
        reports = {}
        if chosen is not None:
            reports = {one.task: one for one in (await trainability_of(session, chosen, names)).items}
        content = await content_of(session, found_id, task) if task is not None and is_storable(task) else None
    if task is not None and content is None:
        raise NotFound(f"the taskset {taskset.name!r} has no task named {task[:200]!r}")
    values: dict[str, Any] = {
        "taskset": taskset,
        "tasks": [_listed(*row, reports.get(row[0])) for row in rows[:PAGE]],
        "following": rows[PAGE - 1][1] if len(rows) > PAGE else None,
        "after": after,
        "models": models,
        "chosen": chosen,
        "task": task,
        "opened": await off_loop(len(content), _indented, content) if content is not None else None,
    }
    return page(request, "tasksets/taskset.html", visitor, **values)


async def _models(session: AsyncSession, caller: Caller, tasks: Sequence[str]) -> list[ModelRow]:
    """Who was trained on these tasks, of those that the caller may see; lately comes first."""
    ids = await trained_on(session, caller.team_id, tasks)
    seen = [one for one in ids if caller.model_ids is None or one in caller.model_ids][:_MOST_MODELS]
    if not seen:
        return []
    query = select(ModelRow).where(ModelRow.id.in_(seen), ModelRow.team_id == caller.team_id)
    rows = {row.id: row for row in await session.scalars(query)}
    return [rows[one] for one in seen if one in rows]


def _listed(name: str, _position: int, content: str | None, num_bytes: int, report: TaskReport | None) -> ListedTask:
    spark = sparkline([period.reward_mean for period in report.over_time]) if report else ""
    try:
        said: dict[str, Any] = json.loads(content) if content is not None else {}
        args = json.dumps(said["args"], ensure_ascii=False) if said.get("args") else ""
    except RecursionError:  # nested more deeply than there is room for here
        content, said, args = None, {}, ""
    shown = _shown(args[:_MOST_CHARACTERS]) if content is not None else None
    num_more = max(0, len(args) - _MOST_CHARACTERS)
    return ListedTask(name, said.get("env"), said.get("scenario"), shown, num_more, num_bytes, report, spark)


def _indented(content: str) -> tuple[str, int]:
    """A task as JSON over lines (nested too deeply for that: as it is kept), and how many characters are left out."""
    try:
        whole = json.dumps(json.loads(content), indent=2, ensure_ascii=False)
    except RecursionError:
        whole = content
    return _shown(whole[:_MOST_OPEN]), max(0, len(whole) - _MOST_OPEN)


def _shown(text: str) -> str:
    """Without half characters, which JSON can name and no page can hold."""
    return text.encode("utf-8", "replace").decode()
