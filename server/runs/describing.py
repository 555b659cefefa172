"""How a run is called, and its tags: what people change about it while it goes on or long after."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of, record
from server.principals.callers import Caller
from server.runs.reading import describe, find_run
from server.runs.types import Run, RunChange


async def change_run(session: AsyncSession, caller: Caller, run_id: UUID, change: RunChange) -> Run:
    """Change what is named. Raises NotFound, and Forbidden where the caller's key is for other models."""
    run, model = await find_run(session, caller, run_id, lock=True)
    named, written = change.model_fields_set, dict[str, Any]()
    if "name" in named and change.name != run.name:
        written["name"] = run.name = change.name
    tags = list(dict.fromkeys(change.tags or []))
    if "tags" in named and tags != run.tags:
        written["tags"] = run.tags = tags
    if written:
        subject = {"team_id": run.team_id, "subject_id": run.model_id}
        record(session, actor_of(caller), "describe_run", **subject, run=str(run.id), **written)
        await session.flush()
    return describe(run, model)
