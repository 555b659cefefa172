"""Everything about one checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.checkpoint_names.paths import Kind, path_of
from server.checkpoint_names.resolving import is_live
from server.pages.checkpoints.lineage import Node
from store.planes.adapters import samplers_holding
from store.tables import CheckpointNameRow, CheckpointRow, ModelRow

_FIRST = (
    "reward_mean",
    "reward_std",
    "reward_min",
    "reward_max",
    "groups_without_spread",
    "loss:sum",
    "grad_norm",
    "entropy:mean",
    "kl_sampling_trainer_k3:mean",
    "ratio:max",
    "tokens:sum",
    "tokens_per_s",
)


@dataclass(frozen=True, slots=True)
class NamedPath:
    """A path by which clients of the Tinker API know it."""

    path: str
    row: CheckpointNameRow


@dataclass(frozen=True, slots=True)
class NodeDetails:
    """A checkpoint's row, its metrics in two parts, and the sizes of its files in bytes."""

    row: CheckpointRow
    main_metrics: list[tuple[str, Any]]
    other_metrics: list[tuple[str, Any]]
    adapter_bytes: int
    state_bytes: int
    samplers: int
    """Live ones that hold it."""
    names: list[NamedPath]


async def node_details(session: AsyncSession, model: ModelRow, base: ModelRow, node: Node) -> NodeDetails:
    """What is known about a node."""
    row, names = await _row_and_names(session, node)
    sizes: dict[str, int] = {path: file["size"] for path, file in row.manifest.get("files", {}).items()}
    adapter_bytes = sum(size for path, size in sizes.items() if path.startswith("adapter/"))
    samplers = await samplers_holding(session, base.id, row.adapter_name)
    return NodeDetails(
        row,
        [(name, row.metrics[name]) for name in _FIRST if name in row.metrics],
        sorted((name, value) for name, value in row.metrics.items() if name not in _FIRST),
        adapter_bytes,
        sum(sizes.values()) - adapter_bytes,
        len(samplers),
        [NamedPath(path_of(model, cast("Kind", name.kind), name.name), name) for name in names],
    )


async def _row_and_names(session: AsyncSession, node: Node) -> tuple[CheckpointRow, list[CheckpointNameRow]]:
    query = (
        select(CheckpointRow, CheckpointNameRow)
        .outerjoin(CheckpointNameRow, and_(CheckpointNameRow.checkpoint_id == CheckpointRow.id, is_live()))
        .where(CheckpointRow.id == UUID(node.id))
        .order_by(CheckpointNameRow.created_at, CheckpointNameRow.id)
    )
    rows = (await session.execute(query)).all()
    names: list[CheckpointNameRow | None] = [name for _, name in rows]
    return rows[0][0], [name for name in names if name is not None]
