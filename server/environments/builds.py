"""What becomes of a build: taken by a runner, its log, its end. Called by whoever speaks with runners.

The serving version of an environment moves with a build that succeeded, and only forwards: a build that ends after one
of a higher version leaves the newer one serving.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from server.environments.manifests import checked_manifest
from server.values.sanitizing import storable_text
from store.notify import BUILD_CHANGED, notify_async
from store.tables import BuildLogLineRow, EnvironmentBuildRow, EnvironmentRow
from wire.errors import InvalidRequest

ENDED = frozenset({"succeeded", "failed", "cancelled"})

MAX_LOG_LINES = 20_000
"""Of a build; what it writes after them is dropped, and one line says so."""
_MAX_LINE = 4_000
_MAX_ERROR = 4_000

BuildOutcome = Literal["completed", "failed", "cancelled"]


async def begin_build(session: AsyncSession, build_id: UUID) -> None:
    """A runner has taken it."""
    statement = update(EnvironmentBuildRow).where(EnvironmentBuildRow.id == build_id)
    await session.execute(statement.where(EnvironmentBuildRow.state == "queued").values(state="building"))
    await notify_async(session, BUILD_CHANGED, str(build_id))


async def append_log(session: AsyncSession, build_id: UUID, attempt: int, first: int, lines: Sequence[str]) -> int:
    """Lines of an attempt, numbered from `first`; those that are there are not written again. How many were new."""
    lines = lines[: max(MAX_LOG_LINES + 1 - first, 0)]
    if not lines:
        return 0
    rows = [
        {"build_id": build_id, "attempt": attempt, "number": number, "message": _shown(line, number)}
        for number, line in enumerate(lines, start=first)
    ]
    statement = insert(BuildLogLineRow).values(rows).on_conflict_do_nothing().returning(BuildLogLineRow.number)
    num_new = len((await session.execute(statement)).all())
    if num_new:
        counted = update(EnvironmentBuildRow).where(EnvironmentBuildRow.id == build_id)
        await session.execute(counted.values(num_log_lines=EnvironmentBuildRow.num_log_lines + num_new))
        await notify_async(session, BUILD_CHANGED, str(build_id))
    return num_new


async def finish_build(
    session: AsyncSession,
    build_id: UUID,
    outcome: BuildOutcome,
    error: str | None = None,
    manifest: dict[str, Any] | None = None,
) -> None:
    """It has ended; a build that had ended stays as it was. A manifest that cannot be used makes it a failure."""
    build = await session.get_one(EnvironmentBuildRow, build_id, with_for_update=True)
    if build.state in ENDED:
        return
    if outcome == "completed":
        try:
            build.manifest = checked_manifest(manifest)
        except InvalidRequest as refused:
            outcome, error = "failed", refused.message
    build.state = {"completed": "succeeded", "failed": "failed", "cancelled": "cancelled"}[outcome]
    if outcome != "completed":
        build.error_message = storable_text((error or "the build ended without saying why")[-_MAX_ERROR:])
    build.build_secrets = None
    build.ended_at = await session.scalar(select(func.clock_timestamp()))
    await session.flush()
    if outcome == "completed" and build.environment_id is not None:
        await _serve(session, build)
    await notify_async(session, BUILD_CHANGED, str(build_id))


async def _serve(session: AsyncSession, build: EnvironmentBuildRow) -> None:
    assert build.environment_id is not None
    assert build.version is not None
    environment = await session.get_one(EnvironmentRow, build.environment_id, with_for_update=True)
    serving = None
    if environment.current_build_id is not None:
        serving = await session.get_one(EnvironmentBuildRow, environment.current_build_id)
    if serving is None or (serving.version or 0) < build.version:
        environment.current_build_id = build.id
        environment.declared_name = build.declared_name or environment.declared_name
        environment.runtime_config = build.runtime_config
        environment.updated_at = await session.scalar(select(func.clock_timestamp())) or environment.updated_at


def _shown(line: str, number: int) -> str:
    if number >= MAX_LOG_LINES:
        return f"(more than {MAX_LOG_LINES} lines: the rest is not kept)"
    return storable_text(line[:_MAX_LINE])
