"""Environments for tests that are about something else: rows, as if a runner had built them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from store.tables import EnvironmentBuildRow, EnvironmentRow

MANIFEST: dict[str, Any] = {
    "tasks": [{"id": "t", "args": {"type": "object", "properties": {"n": {"type": "integer", "default": 8}}}}],
    "capabilities": [],
}


async def deployed_environment_of(session: AsyncSession, team_id: UUID | None, name: str) -> EnvironmentRow:
    """An environment of that team with one version that serves; again and again."""
    query = select(EnvironmentRow).where(EnvironmentRow.name == name, EnvironmentRow.team_id == team_id)
    row = (await session.scalars(query)).one_or_none()
    if row is None:
        row = EnvironmentRow(team_id=team_id, name=name, declared_name=name, next_version=2)
        session.add(row)
        await session.flush()
    build = (
        await session.scalars(select(EnvironmentBuildRow).where(EnvironmentBuildRow.environment_id == row.id))
    ).first()
    if build is None:
        build = EnvironmentBuildRow(
            team_id=team_id,
            state="succeeded",
            source="folder",
            environment_id=row.id,
            version=1,
            declared_name=name,
            manifest=MANIFEST,
        )
        session.add(build)
        await session.flush()
    row.removed_at, row.current_build_id = None, build.id
    await session.flush()
    return row
