"""The table of runs: which of them, in which order."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from fastapi import Depends
from sqlalchemy import ColumnElement, String, any_, cast, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.pages.shared.filters import Filter, Text, filter_of
from server.pages.shared.sorting import Sorting, sorting
from server.principals.callers import Caller
from server.runs.reading import describe
from server.runs.types import Run, State
from store.tables import ModelRow, RunRow

PAGE = 50
STATES: tuple[str, ...] = get_args(State)
_NEWEST_FIRST = "-made"
COLUMNS: dict[str, Any] = {
    "name": func.lower(RunRow.name),
    "state": RunRow.state,
    "model": func.lower(ModelRow.slug),
    "step": RunRow.step,
    "reward": RunRow.reward,
    "held_out": RunRow.held_out_score,
    "taskset": func.lower(RunRow.taskset),
    "made": RunRow.created_at,
}


def run_filter(
    text: Text = "", state: Text = "", model: Text = "", taskset: Text = "", tag: Text = "", sort: Text = ""
) -> Filter:
    """Of the table of runs."""
    texts = {"text": text, "model": model, "taskset": taskset, "tag": tag}
    return filter_of(state=state, sort=sort, **{name: value.strip() for name, value in texts.items()})


RunFilterDep = Annotated[Filter, Depends(run_filter)]


def run_sorting(said: Filter) -> Sorting:
    """Raises InvalidRequest for a column that there is not."""
    return sorting(said["sort"], COLUMNS, _NEWEST_FIRST)


async def run_rows(session: AsyncSession, caller: Caller, said: Filter, number: int) -> tuple[list[Run], int]:
    """A page of the team's runs that are like that, of models that the key opens, and how many there are in all."""
    conditions = _conditions(caller, said)
    query = select(RunRow, ModelRow).join(ModelRow, ModelRow.id == RunRow.model_id).where(*conditions)
    order = run_sorting(said).order(COLUMNS), RunRow.created_at.desc(), RunRow.id
    rows = await session.execute(query.order_by(*order).limit(PAGE).offset((number - 1) * PAGE))
    found = [describe(run, model) for run, model in rows]
    counted = select(func.count()).select_from(RunRow).join(ModelRow, ModelRow.id == RunRow.model_id)
    return found, await session.scalar(counted.where(*conditions)) or 0


def _conditions(caller: Caller, said: Filter) -> list[ColumnElement[bool]]:
    found = [RunRow.team_id == caller.team_id]
    if caller.model_ids is not None:
        found.append(RunRow.model_id.in_(caller.model_ids))
    if (state := said.one_of("state", STATES)) is not None:
        found.append(RunRow.state == state)
    if (model := said.text("model")) is not None:
        found.append(or_(ModelRow.slug.icontains(model, autoescape=True), cast(ModelRow.id, String) == model.lower()))
    if (taskset := said.text("taskset")) is not None:
        found.append(RunRow.taskset.icontains(taskset, autoescape=True))
    if (tag := said.text("tag")) is not None:
        found.append(literal(tag) == any_(RunRow.tags))
    if (words := said.text("text")) is not None:
        found.append(_holds(words))
    return found


def _holds(words: str) -> ColumnElement[bool]:
    """SQL: the text stands in its name, its id, its model, its taskset, or why it waits, stopped or failed."""
    places = (RunRow.name, RunRow.taskset, RunRow.waiting_for, RunRow.stop_reason, RunRow.error)
    texts = [place.icontains(words, autoescape=True) for place in (*places, ModelRow.slug)]
    return or_(*texts, cast(RunRow.id, String).startswith(words.lower(), autoescape=True))
