"""Which checkpoints of a run the retention policy leaves alone."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from server.runs.settings import RunConfig
from store.tables import CheckpointRow


def is_kept(config: RunConfig, step: int) -> bool:
    """The first, and every n-th; with 1 the policy alone decides about those in between."""
    return config.save_steps > 0 and (step == 1 or (config.save_steps > 1 and step % config.save_steps == 0))


async def pin(session: AsyncSession, checkpoint_id: UUID | None) -> None:
    """Keep the files of a node, unless they are gone."""
    node = await session.get(CheckpointRow, checkpoint_id) if checkpoint_id is not None else None
    row = (
        await session.get(CheckpointRow, node.files_id, with_for_update={"key_share": True})
        if node is not None
        else None
    )
    if row is not None and row.pinned_at is None and row.files_removed_at is None and row.state_removed_at is None:
        row.pinned_at = func.clock_timestamp()
