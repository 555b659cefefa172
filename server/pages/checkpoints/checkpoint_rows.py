"""The table of a model's checkpoints, newest first, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.pages.checkpoints.lineage import Lineage, Node
from store.tables import CheckpointRow

PAGE = 50


@dataclass(frozen=True, slots=True)
class CheckpointRows:
    """One page. `older`: the cursor of the next page; None on the last."""

    rows: list[tuple[Node, Any]]
    older: int | None
    is_first: bool


async def checkpoint_rows(session: AsyncSession, lineage: Lineage, before: int | None) -> CheckpointRows:
    """The page of the nodes before the `before`th in commit order (None: the newest), with their figures."""
    end = len(lineage.nodes) if before is None else min(before, len(lineage.nodes))
    nodes = lineage.nodes[max(0, end - PAGE) : end][::-1]
    columns = (
        CheckpointRow.id,
        CheckpointRow.metrics["reward_std"].as_float().label("reward_std"),
        CheckpointRow.loss_fn,
        CheckpointRow.learning_rate,
        CheckpointRow.num_tokens,
    )
    query = select(*columns).where(CheckpointRow.id.in_([UUID(node.id) for node in nodes]))
    figures = {str(row.id): row for row in await session.execute(query)}
    older = end - PAGE if end > PAGE else None
    return CheckpointRows([(node, figures[node.id]) for node in nodes], older, before is None)
