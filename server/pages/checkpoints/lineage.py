"""A model's checkpoint tree as the pages use it: one row a node, without metrics and manifests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import LiteralString, NamedTuple
from uuid import UUID

from psycopg.rows import tuple_row
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.repository import as_uuid
from store.database import driver_of
from store.tables import CheckpointRow, ModelRow

COMMIT_ORDER = CheckpointRow.committed_at, CheckpointRow.step, CheckpointRow.id


NODE_COLUMNS: LiteralString = """
    id::text, parent_id::text, step, name, mean_reward, committed_at, pinned_at is not null, files_removed_at is null,
    files_removed_at is null and state_removed_at is null, is_saved, coalesce(num_tokens, 0)
"""
"""SQL: of `checkpoints`, the fields of a Node but for `forks`."""
# By the driver: 4,000 nodes take 8 ms of a server, and 16 by the ORM.
_NODES: LiteralString = f"""
    select {NODE_COLUMNS} from checkpoints
    where model_id = %(model_id)s and status = 'committed' order by committed_at, step, id
"""  # noqa: S608 - of constants


class Node(NamedTuple):
    """A committed checkpoint. `forks`: models that started from it. Ids are texts, which dictionaries find ten times as
    fast as UUIDs: a tree is walked a dozen times."""

    id: str
    parent_id: str | None
    step: int
    name: str
    mean_reward: float | None
    committed_at: datetime | None
    is_pinned: bool
    has_files: bool
    has_state: bool
    is_saved: bool = True
    num_tokens: int = 0
    forks: tuple[str, ...] = ()


class Lineage:
    """All nodes in commit order, and which way leads to the head."""

    def __init__(self, nodes: Sequence[Node], head_id: UUID | str | None) -> None:
        self.nodes = nodes
        self.by_id = {node.id: node for node in nodes}
        self.head = self.by_id.get(str(head_id)) if head_id else None

    @cached_property
    def steps(self) -> list[Node]:
        """Without the root that a fork of a trained model begins with."""
        return [node for node in self.nodes if node.step > 0]

    @cached_property
    def path(self) -> list[Node]:
        """From the root to the head; empty while the base weights are served."""
        return self.path_to(self.head)

    @cached_property
    def ids_on_path(self) -> set[str]:
        """Of the same nodes."""
        return {node.id for node in self.path}

    def path_to(self, node: Node | None) -> list[Node]:
        """From the root to this node."""
        path: list[Node] = []
        while node is not None:
            path.append(node)
            node = self.by_id.get(node.parent_id) if node.parent_id else None
        return path[::-1]

    def find(self, name: str | None) -> Node | None:
        """The node of that name or id."""
        if name is None:
            return None
        named = next((node for node in self.nodes if node.name == name), None)
        node_id = as_uuid(name)
        return named if named is not None or node_id is None else self.by_id.get(str(node_id))

    def left_behind(self) -> list[tuple[int, int]]:
        """Ranges of `steps` (first, last) that do not lead to the head: rolled back, or beside it."""
        on_path = self.ids_on_path
        ranges: list[tuple[int, int]] = []
        for index, node in enumerate(self.steps):
            if node.id in on_path:
                continue
            if ranges and ranges[-1][1] == index - 1:
                ranges[-1] = (ranges[-1][0], index)
            else:
                ranges.append((index, index))
        return ranges

    def rollbacks(self) -> list[tuple[int, str]]:
        """(index of the step that went on from elsewhere than its predecessor, where from)."""
        marks: list[tuple[int, str]] = []
        for index in range(1, len(self.steps)):
            node = self.steps[index]
            if node.parent_id != self.steps[index - 1].id:
                parent = self.by_id.get(node.parent_id) if node.parent_id else None
                marks.append((index, parent.name if parent else "the base weights"))
        return marks


async def read_lineage(session: AsyncSession, model: ModelRow, *, with_forks: bool = False) -> Lineage:
    """The tree of a model: one statement, two with the names of the models that were forked from it."""
    forks = await _forks(session, model) if with_forks else {}
    connection = await driver_of(session)
    async with connection.cursor(row_factory=tuple_row) as cursor:
        rows = await (await cursor.execute(_NODES, {"model_id": model.id})).fetchall()
    nodes = [Node._make((*row, tuple(forks.get(row[0], ())) if forks else ())) for row in rows]
    return Lineage(nodes, model.head_checkpoint_id)


async def _forks(session: AsyncSession, model: ModelRow) -> dict[str, list[str]]:
    """Which of the team's models began at which of this one's checkpoints."""
    query = (
        select(CheckpointRow.files_id, ModelRow.slug)
        .join(ModelRow, ModelRow.id == CheckpointRow.model_id)
        .where(ModelRow.forked_from_id == model.id, ModelRow.team_id == model.team_id, ModelRow.removed_at.is_(None))
        .where(CheckpointRow.parent_id.is_(None), CheckpointRow.step == 0)
        .order_by(ModelRow.created_at)
    )
    found: dict[str, list[str]] = {}
    for files_id, slug in await session.execute(query):
        found.setdefault(str(files_id), []).append(slug)
    return found
