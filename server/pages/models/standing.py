"""Where a model stands: what is above the tabs of its page, without its tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

from psycopg.rows import tuple_row
from sqlalchemy.ext.asyncio import AsyncSession

from server.pages.checkpoints.lineage import NODE_COLUMNS, Lineage, Node
from store.database import driver_of
from store.tables import ModelRow

_STANDING: LiteralString = f"""
    with recursive above as (
        select id, parent_id, mean_reward from checkpoints where id = %(head_id)s
        union all
        select c.id, c.parent_id, c.mean_reward from above a join checkpoints c on c.id = a.parent_id
        where a.mean_reward is null
    ), standing as (
        select
            (select count(*) from checkpoints where model_id = %(model_id)s and status = 'committed') as num_nodes,
            (select mean_reward from above where mean_reward is not null) as reward
    )
    select s.num_nodes, s.reward, {NODE_COLUMNS}
    from standing s left join checkpoints on model_id = %(model_id)s and status = 'committed' and id = any(%(ids)s)
"""  # noqa: S608 - of constants


@dataclass(frozen=True, slots=True)
class Standing:
    """`served`: the node that the model's name stands for; None for the base weights, as for `head`. `reward`: of the
    head, or of the nearest node above it that has one."""

    num_nodes: int
    reward: float | None
    head: Node | None
    served: Node | None


async def read_standing(session: AsyncSession, model: ModelRow) -> Standing:
    """By one statement."""
    wanted = [node_id for node_id in (model.head_checkpoint_id, model.served_id) if node_id is not None]
    asked = {"model_id": model.id, "head_id": model.head_checkpoint_id, "ids": wanted}
    connection = await driver_of(session)
    async with connection.cursor(row_factory=tuple_row) as cursor:
        rows = await (await cursor.execute(_STANDING, asked)).fetchall()
    nodes = {row[2]: Node._make((*row[2:], ())) for row in rows}
    num_nodes, reward = rows[0][:2]
    return Standing(num_nodes, reward, nodes.get(str(model.head_checkpoint_id)), nodes.get(str(model.served_id)))


def standing_of(model: ModelRow, lineage: Lineage) -> Standing:
    """The same, from a tree that was read anyway."""
    rewards = (node.mean_reward for node in reversed(lineage.path) if node.mean_reward is not None)
    return Standing(len(lineage.nodes), next(rewards, None), lineage.head, lineage.by_id.get(str(model.served_id)))
