"""A model's checkpoint tree as JSON, which PostgreSQL writes: 10,000 nodes are 13 MB, and would be 10,000 objects here
three times over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg.rows import namedtuple_row

from store.database import AsyncConnection
from store.tables import ModelRow
from wire.cursors import make_cursor, parse_cursor

# The fields of `CheckpointNode`. JSON has no number that is not finite.
_NODES: LiteralString = """
    select row_to_json(node)::text as node, created_at, step, id from (
        select c.id, c.name,
            'checkpoints/' || replace(c.files_model_id::text, '-', '') || '/' || replace(c.files_id::text, '-', '')
                || '/adapter' as checkpoint_name,
            c.parent_id as prev_model_checkpoint_id,
            coalesce(c.id = %(head_id)s, false) as is_active,
            c.step,
            to_char(c.created_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as created_at,
            c.num_traces, c.num_datums, c.num_tokens,
            case when c.mean_reward > '-infinity' and c.mean_reward < 'infinity' then c.mean_reward end as mean_reward,
            case when c.learning_rate > '-infinity' and c.learning_rate < 'infinity' then c.learning_rate end
                as learning_rate,
            c.loss_fn, c.metrics,
            c.files_removed_at is null as has_files,
            c.files_removed_at is null and c.state_removed_at is null as has_optimizer_state,
            c.pinned_at is not null as is_pinned
        from checkpoints c
        where c.model_id = %(model_id)s and c.status = 'committed'
"""
_END: LiteralString = ") node"
_OLDEST_FIRST: LiteralString = " order by c.created_at, c.step, c.id limit %(limit)s"
_NEWEST_FIRST: LiteralString = " order by c.created_at desc, c.step desc, c.id desc limit %(limit)s"
_AFTER: LiteralString = " and (c.created_at, c.step, c.id) > (%(created_at)s, %(step)s, %(id)s)"
_BEFORE: LiteralString = " and (c.created_at, c.step, c.id) < (%(created_at)s, %(step)s, %(id)s)"


@dataclass(frozen=True, slots=True)
class ListedTree:
    """`nodes`: a JSON array of `CheckpointNode`. `next_cursor`: of what follows; None: nothing does."""

    nodes: str
    next_cursor: str | None


async def list_tree(
    connection: AsyncConnection,
    model: ModelRow,
    *,
    cursor: str | None = None,
    limit: int | None = None,
    newest_first: bool = False,
) -> ListedTree:
    """The tree, or without a limit all of it. Raises InvalidRequest for a cursor of another list."""
    asked: dict[str, Any] = {"model_id": model.id, "head_id": model.head_checkpoint_id}
    asked["limit"] = None if limit is None else limit + 1
    place: LiteralString = ""
    if cursor is not None:
        asked |= dict(zip(("created_at", "step", "id"), parse_cursor(cursor, datetime, int, UUID), strict=True))
        place = _BEFORE if newest_first else _AFTER
    order = _NEWEST_FIRST if newest_first else _OLDEST_FIRST
    async with connection.cursor(row_factory=namedtuple_row) as statement:
        rows: list[Any] = await (await statement.execute(_NODES + place + order + _END, asked)).fetchall()
    following = None
    if limit is not None and len(rows) > limit:
        rows = rows[:limit]
        following = make_cursor(rows[-1].created_at.replace("Z", "+00:00"), rows[-1].step, rows[-1].id)
    return ListedTree(f"[{','.join([row.node for row in rows])}]", following)
