"""A rollout into the queue, in one statement: its trace, its placement, and what it is to do."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import ARRAY, Text, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from store.notify import PLACEMENT_QUEUED

_TRACE = ("job_id", "group_id", "parent_trace_id", "slug", "model", "model_id")
_TRACE_COLUMNS = ("job_id", "group_id", "parent_trace_id", "task_slug", "model", "model_id")
_PLACEMENT = ("team_id", "priority", "labels", "build_id", "timeout_s", "max_attempts")
_ROLLOUT = (
    "team_id",
    "trace_id",
    "key_id",
    "request_digest",
    "job_id",
    "group_id",
    "parent_trace_id",
    "environment",
    "task",
    "slug",
    "args",
    "agent_type",
    "agent_config",
    "verifier",
    "verifier_build_id",
    "runtime_config",
    "run_id",
    "step",
    "purpose",
    "position",
)

_SUBMIT = text(f"""
    with traced as (
        insert into traces (team_id, id, {", ".join(_TRACE_COLUMNS)})
        values (:team_id, :trace_id, {", ".join(f":{name}" for name in _TRACE)})
        on conflict (team_id, id) do nothing returning id
    ), placed as (
        insert into placements (id, kind, {", ".join(_PLACEMENT)})
        select :placement_id, 'rollout', {", ".join(f":{name}" for name in _PLACEMENT)} from traced returning id
    ), described as (
        insert into hosted_rollouts (placement_id, {", ".join(_ROLLOUT)})
        select id, {", ".join(f":{name}" for name in _ROLLOUT)} from placed returning placement_id
    )
    select pg_notify(:queued, '') from described
""").bindparams(  # noqa: S608 - put together from constants
    bindparam("labels", type_=ARRAY(Text)), bindparam("runtime_config", type_=JSONB(none_as_null=True))
)


async def submit_rollout(session: AsyncSession, values: dict[str, Any]) -> bool:
    """Whether its trace is a new one. Waits for whoever submits the same at this moment. `values`: by the names of the
    columns, with `slug`, `model` and `model_id` of the trace."""
    asked = {**values, "placement_id": uuid.uuid4(), "queued": PLACEMENT_QUEUED}
    return (await session.execute(_SUBMIT, asked)).first() is not None
