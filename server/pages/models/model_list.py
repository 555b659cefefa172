"""`/`: the team's models, the bases they can be forked from, and other vendors' models. (`/models` leads there, unless
a client asks.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import ColumnElement, ScalarSelect, String, and_, any_, cast, func, literal, or_, select
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.repository import BaseRow
from server.http.context import ContextDep
from server.pages.charts.curves import MOST_MODELS
from server.pages.shared.filters import Filter, Text, filter_of
from server.pages.shared.model_states import ModelState, model_states
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from server.pages.shared.sorting import Sorting, sorting
from server.pages.shared.sparkline import sparkline
from server.principals.callers import Caller
from store.listed_models import is_listed
from store.planes.trainer_availability import TrainerAvailability, trainer_availability_async
from store.tables import CheckpointRow, ModelRow

PAGE = 50
_SPARK_POINTS = 40

router = PageRouter()

# The newest rewards of each model, by its index on (model, time); oldest first.
_REWARDS = sql("""
    select m.id, r.rewards
    from unnest(cast(:model_ids as uuid[])) as m(id)
    join lateral (
        select array_agg(mean_reward order by created_at) as rewards from (
            select mean_reward, created_at from checkpoints
            where model_id = m.id and status = 'committed' and mean_reward is not null
            order by created_at desc limit :points
        ) newest
    ) r on true
""")


COLUMNS: dict[str, Any] = {
    "name": func.lower(ModelRow.slug),
    "step": func.coalesce(CheckpointRow.step, 0),
    "reward": CheckpointRow.mean_reward,
    "base": func.lower(BaseRow.slug),
    "stepped": CheckpointRow.committed_at,
    "made": ModelRow.created_at,
}


def model_filter(text: Text = "", tag: Text = "", sort: Text = "") -> Filter:
    """Of the list of models."""
    return filter_of(text=text.strip(), tag=tag.strip(), sort=sort)


ModelFilterDep = Annotated[Filter, Depends(model_filter)]


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A line of the list."""

    model: ModelRow
    base: ModelRow
    head: CheckpointRow | None
    rewards: list[float]
    state: ModelState

    @property
    def spark(self) -> str:
        """Its last rewards."""
        return sparkline(self.rewards)


@dataclass(frozen=True, slots=True)
class UpstreamTile:
    """Another vendor's model."""

    id: str
    slug: str
    api: str


@router.get("/")
async def models(
    context: ContextDep,
    request: Request,
    visitor: VisitorDep,
    said: ModelFilterDep,
    number: Annotated[int, Query(alias="page", ge=1, le=100_000)] = 1,
) -> Response:
    """The team's models, newest first unless they are sorted."""
    sort = sorting(said["sort"], COLUMNS, "-made")
    async with context.database.session() as session:
        supplies = await trainer_availability_async(session)
        total, upstreams, listed = await _listed(session, visitor.caller, number, supplies, said, sort)
    values: dict[str, Any] = {"number": number, "num_pages": max(1, -(-total // PAGE)), "total": total}
    values |= {"said": said, "sort": sort, "most_compared": MOST_MODELS}
    return page(request, "models/list.html", visitor, models=listed, bases=supplies, upstreams=upstreams, **values)


@router.get("/models")
@router.get("/models/")
async def models_elsewhere(visitor: VisitorDep) -> Response:
    """Where people look for the list."""
    return RedirectResponse("/", 303)


async def _listed(
    session: AsyncSession,
    caller: Caller,
    number: int,
    supplies: list[TrainerAvailability],
    said: Filter,
    sort: Sorting,
) -> tuple[int, list[UpstreamTile], list[ListedModel]]:
    mine = and_(ModelRow.team_id == caller.team_id, is_listed())
    if caller.model_ids is not None:
        mine &= ModelRow.id.in_(caller.model_ids)
    mine = and_(mine, *_conditions(said))
    total, upstreams = (await session.execute(select(_count(mine), _upstreams(caller)))).one()
    query = (
        select(ModelRow, BaseRow, CheckpointRow)
        .join(BaseRow, BaseRow.id == ModelRow.base_id)
        .outerjoin(CheckpointRow, CheckpointRow.id == ModelRow.head_checkpoint_id)
        .where(mine)
        .order_by(sort.order(COLUMNS), ModelRow.created_at.desc(), ModelRow.id)
    )
    found = (await session.execute(query.limit(PAGE).offset((number - 1) * PAGE))).all()
    model_ids = [model.id for model, _, _ in found]
    rewards = {
        row.id: row.rewards or []
        for row in await session.execute(_REWARDS, {"model_ids": model_ids, "points": _SPARK_POINTS})
    }
    models = [model for model, _, _ in found]
    states = await model_states(session, models, {supply.base_id for supply in supplies if supply.num_ready})
    return (
        total,
        [UpstreamTile(*one) for one in upstreams or ()],
        [ListedModel(model, base, head, rewards.get(model.id, []), states[model.id]) for model, base, head in found],
    )


def _conditions(said: Filter) -> list[ColumnElement[bool]]:
    found = list[ColumnElement[bool]]()
    if (words := said.text("text")) is not None:
        texts = [place.icontains(words, autoescape=True) for place in (ModelRow.slug, ModelRow.description)]
        found.append(or_(*texts, cast(ModelRow.id, String).startswith(words.lower(), autoescape=True)))
    if (tag := said.text("tag")) is not None:
        found.append(literal(tag) == any_(ModelRow.tags))
    return found


def _count(mine: ColumnElement[bool]) -> ScalarSelect[int]:
    return select(func.count()).select_from(ModelRow).where(mine).scalar_subquery()


def _upstreams(caller: Caller) -> ScalarSelect[Any]:
    """Id, name and API of each, oldest first."""
    facts = func.json_build_array(ModelRow.id, ModelRow.slug, ModelRow.upstream["api"].astext)
    query = select(func.json_agg(aggregate_order_by(facts, ModelRow.created_at, ModelRow.id))).where(
        ModelRow.upstream.is_not(None)
    )
    if caller.model_ids is not None:
        query = query.where(ModelRow.id.in_(caller.model_ids))
    return query.scalar_subquery()
