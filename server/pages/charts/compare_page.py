"""`/compare`: several models, and branches of theirs, on one chart. `/live/compare/series` and `/live/compare.csv`: the
points of its curves."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.http.context import ContextDep
from server.pages.charts.csv_export import csv_lines
from server.pages.charts.curves import (
    MOST_MODELS,
    Compared,
    all_curves,
    find_models,
    points_of,
    read_figures,
    with_trees,
)
from server.pages.charts.figures import figures_of, with_spreads
from server.pages.charts.settings import ACROSS, SMOOTHINGS, ChartSettingsDep
from server.pages.charts.summary import summary
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from server.principals.callers import Caller
from store.listed_models import is_listed
from store.tables import ModelRow

MOST_VALUES = 6000
"""Points of all curves of all charts in an answer."""
_LEAST_POINTS = 20
_MOST_POINTS = 400
_MOST_OFFERED = 40

router = PageRouter()


@dataclass(frozen=True, slots=True)
class Choice:
    """Which models, by id or name, and which ends of theirs, by the ids of checkpoints."""

    models: list[str]
    ends: list[str]


def choice(
    model: Annotated[list[str] | None, Query(max_length=50)] = None,
    end: Annotated[list[str] | None, Query(max_length=50)] = None,
) -> Choice:
    """As an address says it."""
    return Choice(list(dict.fromkeys(model or [])), end or [])


ChoiceDep = Annotated[Choice, Depends(choice)]


@router.get("/compare")
async def compare(
    context: ContextDep, request: Request, visitor: VisitorDep, chosen: ChoiceDep, asked: ChartSettingsDep
) -> Response:
    """The chosen models' charts, their figures in a table, and the form that chooses."""
    async with context.database.session() as session:
        compared = await with_trees(session, await find_models(session, visitor, chosen.models), chosen.ends)
        curves = all_curves(compared)
        figures = await read_figures(session, curves, asked.figures)
        ids = [one.model.id for one in compared]
        values: dict[str, Any] = {
            "compared": compared,
            "curves": curves,
            "charts": asked.figures,
            "summary": summary(curves, asked.figures, figures),
            "choices": await figures_of(session, ids),
            "offered": await _offered(session, visitor.caller, compared),
        }
    query = {"model": ids, "end": [node.id for one in compared for node in one.chosen]}
    values |= {"asked": asked, "across": ACROSS, "smoothings": SMOOTHINGS, "query": query, "most_models": MOST_MODELS}
    return page(request, "charts/compare.html", visitor, **values)


@router.get("/live/compare/series")
async def compare_series(
    context: ContextDep, request: Request, visitor: VisitorDep, chosen: ChoiceDep, asked: ChartSettingsDep
) -> Response:
    """Of each figure the points of each curve, thinned; 304 while no curve has another end."""
    async with context.database.session() as session:
        models = await find_models(session, visitor, chosen.models)
        headers = {"Cache-Control": "no-store", "ETag": _tag(models, chosen.ends, asked.address(""))}
        if request.headers.get("if-none-match") == headers["ETag"]:  # without a look at the trees
            return Response(status_code=304, headers=headers)
        curves, figures = all_curves(await with_trees(session, models, chosen.ends)), asked.figures
        values = await read_figures(session, curves, figures)
    most = min(_MOST_POINTS, max(_LEAST_POINTS, MOST_VALUES // max(1, len(curves) * len(figures))))
    series = {
        figure.key: [
            points_of(curve, lambda node, number=number: values[node.id][number], asked.across, most)
            for curve in curves
        ]
        for number, figure in enumerate(figures)
    }
    num_steps = [len(curve.steps) for curve in curves]
    answer = {"labels": [curve.label for curve in curves], "num_steps": num_steps, "most": most, "series": series}
    return JSONResponse(answer, headers=headers)


@router.get("/live/compare.csv")
async def compare_csv(
    context: ContextDep, visitor: VisitorDep, chosen: ChoiceDep, asked: ChartSettingsDep
) -> StreamingResponse:
    """A line for each step of each curve, with the chosen figures as they are on record, none left out."""
    figures = with_spreads(asked.figures)
    async with context.database.session() as session:
        models = await find_models(session, visitor, chosen.models)
        curves = all_curves(await with_trees(session, models, chosen.ends))
        values = await read_figures(session, curves, figures)
    headers = {"Content-Disposition": 'attachment; filename="curves.csv"', "Cache-Control": "no-store"}
    return StreamingResponse(csv_lines(curves, figures, values), media_type="text/csv; charset=utf-8", headers=headers)


async def _offered(session: AsyncSession, caller: Caller, compared: Sequence[Compared]) -> list[tuple[ModelRow, bool]]:
    """Models that may be chosen, those that are first, then the newest."""
    chosen = [one.model for one in compared]
    query = select(ModelRow).where(
        ModelRow.team_id == caller.team_id, is_listed(), ModelRow.id.not_in([one.id for one in chosen])
    )
    if caller.model_ids is not None:
        query = query.where(ModelRow.id.in_(caller.model_ids))
    others = await session.scalars(query.order_by(ModelRow.created_at.desc(), ModelRow.id).limit(_MOST_OFFERED))
    return [*((model, True) for model in chosen), *((model, False) for model in others)]


def _tag(models: Sequence[ModelRow], ends: Sequence[str], asked: str) -> str:
    """Of what decides the curves: nodes that were committed never change."""
    heads = [f"{model.id} {model.slug} {model.head_checkpoint_id}" for model in models]
    return f'"{hashlib.sha256(repr((heads, ends, asked)).encode()).hexdigest()[:24]}"'
