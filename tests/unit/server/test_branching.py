"""Which of a model's newest steps lead to its head, from the few rows where their line turns."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from server.pages.checkpoints.lineage import read_lineage
from server.pages.models.branching import read_branching
from server.pages.models.standing import read_standing, standing_of
from store.database import AsyncDatabase
from store.tables import CheckpointRow, ModelRow
from tests.unit.conftest import World

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def plant(database: AsyncDatabase, model_id: uuid.UUID, rng: random.Random, size: int) -> ModelRow:
    """A tree of that many nodes: mostly straight, with branches from anywhere, roots, and a root of step 0 at times."""
    nodes = list[CheckpointRow]()
    async with database.session() as session:
        model = await session.get_one(ModelRow, model_id)
        first = rng.choice([0, 1])
        for number in range(size):
            draw = rng.random()
            parent = nodes[-1] if nodes and draw < 0.75 else rng.choice(nodes) if nodes and draw < 0.95 else None
            node_id = uuid.UUID(int=rng.getrandbits(128))
            step = parent.step + 1 if parent else first if number == 0 else 1
            row = CheckpointRow(
                id=node_id,
                model_id=model_id,
                parent_id=parent.id if parent else None,
                files_id=node_id,
                files_model_id=model_id,
                step=step,
                name=f"{step:04d}-{node_id.hex[:8]}",
                status="committed",
                manifest={},
                metrics={},
                mean_reward=rng.random() if rng.random() < 0.5 else None,
                committed_at=NOW + timedelta(seconds=number),
            )
            session.add(row)
            await session.flush()
            nodes.append(row)
        head = rng.choice([None, *nodes, *nodes[-3:]]) if nodes else None
        model.head_checkpoint_id = head.id if head else None
        return model


@pytest.mark.parametrize("seed", range(12))
async def test_turns_say_what_the_whole_lineage_says(seed: int, world: World, async_database: AsyncDatabase):
    rng = random.Random(seed)
    model = await plant(async_database, world.model_id, rng, size=rng.choice([0, 1, 5, 40]))
    async with async_database.session() as session:
        lineage = await read_lineage(session, model)
        total = len(lineage.steps)
        for most in (1, 3, 10, 100):
            begin = max(0, total - most)
            told = await read_branching(session, model.id, model.head_checkpoint_id, total, most)
            left_behind = [(max(a, begin), b) for a, b in lineage.left_behind() if b >= begin]
            assert told.left_behind() == left_behind, (most, lineage.left_behind())
            assert told.rollbacks() == [one for one in lineage.rollbacks() if one[0] >= begin]


@pytest.mark.parametrize("seed", range(4))
async def test_where_a_model_stands_is_known_without_its_tree(seed: int, world: World, async_database: AsyncDatabase):
    model = await plant(async_database, world.model_id, random.Random(seed), size=20)
    async with async_database.session() as session:
        lineage = await read_lineage(session, model)
        served = uuid.UUID(lineage.nodes[3].id)
        for model.serves_head, model.served_checkpoint_id in ((True, None), (False, None), (False, served)):
            assert await read_standing(session, model) == standing_of(model, lineage)
        rewards = [node.mean_reward for node in lineage.path if node.mean_reward is not None]
        assert standing_of(model, lineage).reward == (rewards[-1] if rewards else None)
        await session.rollback()
