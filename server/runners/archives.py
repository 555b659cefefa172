"""The archive of a build, for a runner that holds something which needs it."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from store.tables import EnvironmentBuildRow, HostedRolloutRow, PlacementRow, RunnerRow
from wire.errors import NotFound


async def archive_of(session: AsyncSession, runner: RunnerRow, build_id: UUID) -> EnvironmentBuildRow:
    """The build, which has an archive. Raises NotFound for one that no placement needs which the runner holds."""
    verifies = exists().where(
        HostedRolloutRow.placement_id == PlacementRow.id, HostedRolloutRow.verifier_build_id == build_id
    )
    held = exists().where(
        PlacementRow.runner_id == runner.id,
        PlacementRow.state == "running",
        or_(PlacementRow.build_id == build_id, verifies),
    )
    build = await session.scalar(select(EnvironmentBuildRow).where(EnvironmentBuildRow.id == build_id, held))
    if build is None:
        raise NotFound(f"nothing that this runner holds needs the build {build_id}")
    if build.archive_blob is None:
        raise NotFound(f"the build {build_id} has no archive: it is of the source {build.source}")
    return build
