"""A version of an environment as its runner needs it."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from store.tables import EnvironmentBuildRow, EnvironmentRow
from wire.placements import EnvironmentSpec


async def spec_of(session: AsyncSession, build_id: UUID, *, building: bool = False) -> EnvironmentSpec:
    """`building`: with what a build alone gets."""
    query = select(EnvironmentBuildRow, EnvironmentRow).join(
        EnvironmentRow, EnvironmentRow.id == EnvironmentBuildRow.environment_id
    )
    build, environment = (await session.execute(query.where(EnvironmentBuildRow.id == build_id))).one()
    return EnvironmentSpec.model_validate(
        {
            "build_id": build.id,
            "name": environment.name,
            "declared_name": build.declared_name or environment.declared_name,
            "version": build.version,
            "source": build.source,
            "archive_digest": build.archive_blob,
            "archive_bytes": build.archive_bytes,
            "image": build.image,
            "variables": environment.variables,
            "runtime_config": build.runtime_config,
            "no_cache": build.no_cache,
            "build_args": build.build_args or {},
            "build_secrets": (build.build_secrets or {}) if building else {},
        }
    )
