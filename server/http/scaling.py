"""How many samplers and slots of runners there should be: figures for an autoscaler, which asks with the token of
`/metrics`. Every server answers alike."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import BaseModel

from server.catalog.bases import base_by_name
from server.http.authentication import SCRAPERS
from server.http.context import ContextDep
from server.http.routing import KeyedRouter
from server.values.sanitizing import storable_text
from store.placements.demand import runner_demand
from store.planes.sampler_demand import sampler_demands_async

router = KeyedRouter(tags=["operations"])

Label = Annotated[str | None, Query(max_length=200, description="Of placements that ask for it; without, for none")]


class SamplerScaling(BaseModel):
    """`value`: samplers that the base should have. The rest is why: sequences at samplers and waiting for one, seconds
    since a request was last under way and since something last happened in an open rollout, what else will ask, and
    the samplers that take requests now."""

    value: int
    base: str
    running: int
    waiting: int
    asked_s: float | None
    rollouts_s: float | None
    hosted_rollouts: int
    sampling_sessions: int
    runs: int
    live: int


class RunnerScaling(BaseModel):
    """`value`: slots that runners should have: for what is queued, as far as teams may have it at once, and running.
    `slots`: of live runners."""

    value: int
    label: str | None
    queued: int
    running: int
    slots: int


@router.get("/scaling/samplers/{base:path}", dependencies=[SCRAPERS])
async def scaling_of_samplers(context: ContextDep, base: str) -> SamplerScaling:
    """How many samplers a base should have, by what is asked of it; 0 where nothing is asked and none is kept."""
    async with context.background.session() as session:
        row = await base_by_name(session, base)
        (demand,) = await sampler_demands_async(session, row.id)
    return SamplerScaling(
        value=demand.wanted(context.settings.elastic.policy),
        base=demand.base,
        running=demand.running,
        waiting=demand.waiting,
        asked_s=demand.asked_s,
        rollouts_s=demand.rollouts_s,
        hosted_rollouts=demand.hosted_rollouts,
        sampling_sessions=demand.sampling_sessions,
        runs=demand.runs,
        live=demand.live,
    )


@router.get("/scaling/runners", dependencies=[SCRAPERS])
async def scaling_of_runners(context: ContextDep, label: Label = None) -> RunnerScaling:
    """How many slots runners should have in all, by what is queued and running."""
    async with context.background.session() as session:
        demand = await runner_demand(session, None if label is None else storable_text(label))
    facts = {"queued": demand.queued, "running": demand.running, "slots": demand.slots}
    return RunnerScaling(value=demand.wanted, label=label, **facts)
