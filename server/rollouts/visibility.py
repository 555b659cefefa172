"""What a key that is narrowed to some models sees of rollouts and jobs: those of its models.

A job is seen if it has rollouts of these models, and of no others. Rollouts whose model is not known yet are on no
list, and may be reported. For the keys of a whole team nothing is asked.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, any_, func, literal, not_, select

from server.principals.callers import Caller
from store.database import AsyncDatabase
from store.tables import TraceRow
from wire.errors import Forbidden


def models_of(caller: Caller) -> list[UUID] | None:
    """The models to which lists are narrowed; None: no list is."""
    return None if caller.model_ids is None else sorted(caller.model_ids)


async def require_trace(database: AsyncDatabase, caller: Caller, trace_id: UUID, *, reports: bool = False) -> None:
    """Raises Forbidden for a rollout of another model; one that there is not yet passes. reports: so does one whose
    model is not known."""
    if caller.model_ids is None:
        return
    query = select(TraceRow.model_id).where(TraceRow.team_id == caller.team_id, TraceRow.id == trace_id)
    async with database.session() as session:
        found = (await session.execute(query)).one_or_none()
    if found is None or found.model_id in caller.model_ids or (reports and found.model_id is None):
        return
    raise Forbidden(f"this key is for some models alone, and the trace {trace_id} is of none of them")


async def hidden_traces(
    database: AsyncDatabase, team_id: UUID, model_ids: Collection[UUID], ids: Collection[UUID]
) -> set[UUID]:
    """Those of the team's rollouts that a key for these models does not see."""
    named = literal(list(ids), ARRAY(Uuid))  # as one parameter: a batch may name more than there may be
    of_these = func.coalesce(TraceRow.model_id.in_(model_ids), False)
    query = select(TraceRow.id).where(TraceRow.team_id == team_id, TraceRow.id == any_(named), not_(of_these))
    async with database.session() as session:
        return set(await session.scalars(query))


async def require_job(database: AsyncDatabase, caller: Caller, job_id: UUID, *, reports: bool = False) -> None:
    """Raises Forbidden for a job with rollouts of other models, or with none of the key's; one without rollouts passes.
    reports: so does one whose rollouts are of no known model."""
    if caller.model_ids is None:
        return
    own = func.bool_or(TraceRow.model_id.in_(caller.model_ids))
    others = func.bool_or(TraceRow.model_id.not_in(caller.model_ids))
    query = select(func.count(), own, others).where(TraceRow.team_id == caller.team_id, TraceRow.job_id == job_id)
    async with database.session() as session:
        num_traces, has_own, has_others = (await session.execute(query)).one()
    if num_traces and (has_others or not (has_own or reports)):
        raise Forbidden(f"this key is for some models alone, and the job {job_id} is not of these alone")
