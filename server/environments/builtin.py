"""Environments that come with runners: rows like those of deployed ones, which nobody deploys.

They belong to everybody. Their names begin with `headway-`, which no environment may have that is deployed.
"""

from __future__ import annotations

import uuid
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from store.tables import EnvironmentBuildRow, EnvironmentRow
from wire.graders.tasks import GRADED_ENVIRONMENT, GRADED_TASK

_NAMESPACE = UUID("6d6b8f5e-3b0a-4f0e-9a65-2f6f0a4ad1c7")
_OBJECT = {"type": "object"}
_GRADED: dict[str, Any] = {
    "tasks": [
        {
            "id": GRADED_TASK,
            "description": "Answers a conversation; a grader of the fine-tuning API scores the answer.",
            "args": {
                "type": "object",
                "properties": {"messages": {"type": "array", "items": _OBJECT}, "item": _OBJECT, "grader": _OBJECT},
                "required": ["messages", "item", "grader"],
                "additionalProperties": False,
            },
        }
    ],
    "capabilities": [],
}
_MANIFESTS = {GRADED_ENVIRONMENT: _GRADED}


async def ensure_builtin(session: AsyncSession, name: str) -> None:
    """The environment is there, and a version of it serves. Its ids follow from its name, so racing calls meet."""
    environment_id, build_id = (uuid.uuid5(_NAMESPACE, f"{what} {name}") for what in ("environment", "build"))
    serves = EnvironmentRow.id == environment_id, EnvironmentRow.current_build_id == build_id
    if await session.scalar(select(EnvironmentRow.id).where(*serves, EnvironmentRow.removed_at.is_(None))):
        return
    environment = insert(EnvironmentRow).values(id=environment_id, name=name, declared_name=name, next_version=2)
    await session.execute(environment.on_conflict_do_nothing())
    now = func.clock_timestamp()
    build = insert(EnvironmentBuildRow).values(
        id=build_id,
        state="succeeded",
        source="builtin",
        environment_id=environment_id,
        version=1,
        declared_name=name,
        triggered_at=now,
        ended_at=now,
        manifest=_MANIFESTS[name],
    )
    await session.execute(build.on_conflict_do_nothing())
    row = await session.get_one(EnvironmentRow, environment_id, populate_existing=True, with_for_update=True)
    row.current_build_id, row.removed_at = build_id, None
    await session.flush()
