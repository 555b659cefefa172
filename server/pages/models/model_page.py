"""`/models/<id>`: how a model learns, and its checkpoint tree. `/live/models/<id>/series`: what its charts show."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.lora import shape_of
from server.catalog.run_ids import run_id
from server.catalog.service import catalog_model
from server.guard.alarms import list_alarms
from server.guard.types import TaskReport
from server.http.context import ContextDep
from server.pages.charts.figures import figures_of
from server.pages.charts.settings import ACROSS, SMOOTHINGS, ChartSettings, ChartSettingsDep
from server.pages.checkpoints.checkpoint_rows import checkpoint_rows
from server.pages.checkpoints.lineage import Lineage, read_lineage
from server.pages.checkpoints.node_details import NodeDetails, node_details
from server.pages.checkpoints.tree_layout import lay_out
from server.pages.checkpoints.tree_picture import draw
from server.pages.guard.guard_tab import guard_tab
from server.pages.models import series
from server.pages.models.branching import read_branching
from server.pages.models.held_out import held_out_charts, held_out_scores
from server.pages.models.standing import read_standing, standing_of
from server.pages.shared.model_states import model_states
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from server.pages.shared.sparkline import sparkline
from server.pages.shared.visible_models import find_model
from server.trainability.report import trainability
from server.values.metadata import as_texts
from store.database import ONE_MOMENT
from store.planes.trainer_availability import trainer_availability_async
from store.tables import ModelRow
from wire.errors import NotFound

router = PageRouter()

Tab = Literal["training", "checkpoints", "tasks", "guard"]
_TEMPLATES: dict[Tab, str] = {
    "training": "models/training.html",
    "checkpoints": "checkpoints/tab.html",
    "tasks": "models/tasks.html",
    "guard": "guard/tab.html",
}

_MOST_ALARMS = 5
_TASKS = 50
_MOST_NOTES = 8
Index = Annotated[int, Query(ge=0, le=2**31)]


@router.get("/models/{model_id}")
async def model_page(
    context: ContextDep,
    request: Request,
    visitor: VisitorDep,
    model_id: str,
    asked: ChartSettingsDep,
    tab: Tab = "training",
    node: str | None = None,
    open_run: Annotated[str | None, Query(alias="open")] = None,
    before: Annotated[int | None, Query(ge=0, le=2**31)] = None,
    cursor: Annotated[str | None, Query(max_length=3000)] = None,
) -> Response:
    """One model; of a base, or of another vendor's model, what there is to say about it."""
    async with context.database.session() as session:
        model, base = await find_model(session, visitor, model_id)
        if model.upstream is not None:
            return page(request, "models/upstream.html", visitor, model=model, upstream=catalog_model(model, None))
        if base is None:
            (supply,) = await trainer_availability_async(session, model.id)
            return page(request, "models/base.html", visitor, model=model, supply=supply)
        tree = await read_lineage(session, model, with_forks=True) if tab == "checkpoints" else None
        values = await _common(session, model, base, tree)
        if tree is not None:
            values |= await _checkpoints(session, model, base, tree, node, open_run, before)
        elif tab == "tasks":
            report = await trainability(session, model, cursor=cursor, limit=_TASKS)
            values |= {"report": report, "cursor": cursor, "sparks": [_spark(task) for task in report.items]}
        elif tab == "guard":
            values |= await guard_tab(session, visitor, model, cursor)
        else:
            values |= await _charts(session, model, asked)
    return page(request, _TEMPLATES[tab], visitor, tab=tab, **values)


@router.get("/live/models/{model_id}/series")
async def model_series(
    context: ContextDep, visitor: VisitorDep, model_id: str, asked: ChartSettingsDep, after: Index = 0
) -> JSONResponse:
    """Points of the charts after the first `after` steps; without it, the newest ones that fit in an answer.

    `first`: how many steps come before the first point. `left_behind` and `rollbacks` count steps from 0 and are about
    all steps that are drawn, since a rollback changes what earlier points mean. `scores` are all that are held out.
    `places`: where the points are, over time or tokens.
    """
    most = series.most_points(asked.figures)
    async with context.database.session() as session:
        await session.execute(ONE_MOMENT)  # points and turns are counted from the same end
        model, _ = await find_model(session, visitor, model_id)
        total = await series.num_steps(session, model.id)
        first = min(max(after, total - most, 0), total)
        figures = await series.points(session, model.id, asked.figures, total - first)
        figures["scores"] = await held_out_scores(session, model.id)
        if asked.across in series.PLACED:
            figures["places"] = series.places(await read_lineage(session, model), asked.across, first)
        branching = await read_branching(session, model.id, model.head_checkpoint_id, total, most)
    turns = {"left_behind": branching.left_behind(), "rollbacks": branching.rollbacks()}
    return JSONResponse({"total": total, "first": first, **figures, **turns}, headers={"Cache-Control": "no-store"})


async def _charts(session: AsyncSession, model: ModelRow, asked: ChartSettings) -> dict[str, Any]:
    return {
        "asked": asked,
        "across": ACROSS,
        "smoothings": SMOOTHINGS,
        "charts": asked.figures,
        "choices": await figures_of(session, [model.id]),
        "most_points": series.most_points(asked.figures),
    }


async def _common(session: AsyncSession, model: ModelRow, base: ModelRow, lineage: Lineage | None) -> dict[str, Any]:
    """What stands above the tabs."""
    (supply,) = await trainer_availability_async(session, base.id)
    states = await model_states(session, [model], {base.id} if supply.num_ready else set())
    standing = await read_standing(session, model) if lineage is None else standing_of(model, lineage)
    found = await list_alarms(session, model.id, only_open=True, cursor=None, limit=_MOST_ALARMS)
    return {
        "alarms": found.items,
        "has_more_alarms": found.next_cursor is not None,
        "held_out": await held_out_charts(session, model.id),
        "model": model,
        "lora": shape_of(model, base),
        "run_id": run_id(model) if model.session_id else None,
        "noted": list((as_texts(model.user_metadata) or {}).items())[:_MOST_NOTES],
        "base": base,
        "supply": supply,
        "state": states[model.id],
        "head": standing.head,
        "served": standing.served,
        "num_nodes": standing.num_nodes,
        "reward": standing.reward,
    }


def _spark(task: TaskReport) -> str:
    return sparkline([period.reward_mean for period in task.over_time])


async def _checkpoints(
    session: AsyncSession,
    model: ModelRow,
    base: ModelRow,
    lineage: Lineage,
    node: str | None,
    open_run: str | None,
    before: int | None,
) -> dict[str, Any]:
    chosen = lineage.head if node is None else lineage.find(node)
    if node not in (None, "base") and chosen is None:
        raise NotFound(f"model {model.slug!r} has no checkpoint {node!r}")
    items = lay_out(lineage, chosen, lineage.find(open_run) if open_run else None)
    picture = draw(lineage, items, chosen if node else None, f"/models/{model.id}", f"Base weights of {base.slug}")
    details: NodeDetails | None = await node_details(session, model, base, chosen) if chosen else None
    return {
        "lineage": lineage,
        "picture": picture,
        "chosen": chosen,
        "details": details,
        "node_is_named": node is not None,
        "is_base_chosen": node == "base" or (node is None and lineage.head is None),
        "table": await checkpoint_rows(session, lineage, before),
    }
