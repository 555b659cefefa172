"""Paths that the guard keeps in memory give the rules what reading the whole path gives."""

from __future__ import annotations

import random
import uuid
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from server.guard import paths, reading
from server.guard.paths import Paths
from server.guard.reading import path_to, read_history
from server.guard.rules import RULES
from store.database import AsyncConnection, AsyncDatabase, driver_of
from store.tables import CheckpointRow, EvalRow, ModelRow

LONGEST, SLACK = 20, 6
LOOSE = {
    "steps": 2,
    "growth": 1.1,
    "tokens": 1,
    "correlation": 0.1,
    "reward_gain": 0.01,
    "evaluations": 1,
    "bound": 0.4,
}


@pytest.fixture
def short_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "LONGEST", LONGEST)
    monkeypatch.setattr(reading, "LONGEST", LONGEST)
    monkeypatch.setattr(paths, "_SLACK", SLACK)


def a_node(model: ModelRow, parent: CheckpointRow | None, first_step: int, rng: random.Random) -> CheckpointRow:
    node_id = uuid.UUID(int=rng.getrandbits(128))
    step = parent.step + 1 if parent else first_step
    measured = {
        "kl_sampling_trainer_k3:mean": rng.random(),
        "entropy:mean": 1 / step if step else 1.0,
        "tokens:sum": 100.0 * step * rng.random(),
        "groups_without_spread": rng.choice([0.5, 1.0]),
        "reward_max": rng.random(),
        "reward_std": 0.01,
        "loss:sum": rng.random(),
    }
    return CheckpointRow(
        id=node_id,
        model_id=model.id,
        parent_id=parent.id if parent else None,
        files_id=node_id,
        files_model_id=model.id,
        step=step,
        name=f"{step:04d}-{node_id.hex[:8]}",
        status="committed",
        manifest={},
        metrics={name: value for name, value in measured.items() if rng.random() < 0.9},
        num_traces=8,
        mean_reward=rng.random() if rng.random() < 0.9 else None,
    )


def a_score(model: ModelRow, node: CheckpointRow | None, rng: random.Random) -> EvalRow:
    scored = {"model_id": model.id, "checkpoint_id": node.id if node else None, "score": rng.random()}
    return EvalRow(benchmark=rng.choice("ab"), higher_is_better=True, mixed=False, **scored)


async def findings(connection: AsyncConnection, model: Any, path: reading.Path) -> dict[str, Any]:
    history = await read_history(connection, model, path)
    since = history.since(history.steps[len(history.steps) // 2].step) if history.steps else history
    loose = {name: {**rule.parameters, **LOOSE} for name, rule in RULES.items()}
    return {
        f"{name}, {index}": rule.find(seen, loose[name])
        for name, rule in RULES.items()
        for index, seen in enumerate((history, since))
    }


@pytest.mark.usefixtures("short_paths")
@pytest.mark.parametrize("first_step", [0, 1], ids=["from another model's weights", "from the base weights"])
async def test_a_kept_path_gives_the_findings_of_the_whole_one(
    model: dict[str, Any], database: AsyncDatabase, first_step: int
):
    """A random tree of steps, roll-backs and scores of old and new nodes."""
    rng, kept, num_found = random.Random(first_step), Paths(), 0
    async with database.session() as session:
        row, connection = await session.get_one(ModelRow, uuid.UUID(model["id"])), await driver_of(session)
        nodes = list[CheckpointRow]()
        for _ in range(90):
            rolls_back = rng.random() < 0.1
            nodes.append(
                a_node(row, rng.choice(nodes) if nodes and rolls_back else (nodes or [None])[-1], first_step, rng)
            )
            session.add(nodes[-1])
            await session.flush()
            looked_at: list[CheckpointRow | None] = [nodes[-1]]
            if rng.random() < 0.3:
                looked_at.append(rng.choice([None, *nodes, *nodes[-3:]]))
                session.add(a_score(row, looked_at[-1], rng))
                await session.flush()
            for node in looked_at:
                node_id = node.id if node else None
                in_full = await findings(connection, row, (await path_to(connection, node_id))[0])
                assert await findings(connection, row, await kept.to(connection, row.id, node_id)) == in_full
                num_found += sum(finding is not None for finding in in_full.values())
        await session.rollback()
    assert num_found > 100


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[uuid.UUID | None]:
    """The checkpoints whose paths were read as a whole."""
    found = list[uuid.UUID | None]()

    async def counted(connection: AsyncConnection, checkpoint_id: uuid.UUID | None) -> tuple[reading.Path, bool]:
        found.append(checkpoint_id)
        return await path_to(connection, checkpoint_id)

    monkeypatch.setattr(paths, "path_to", counted)
    return found


async def grow(session: AsyncSession, model: ModelRow, num_steps: int) -> list[uuid.UUID]:
    """A branch from the base weights."""
    rng, nodes = random.Random(0), list[CheckpointRow]()
    for _ in range(num_steps):
        nodes.append(a_node(model, nodes[-1] if nodes else None, 1, rng))
        nodes[-1].id = nodes[-1].files_id = uuid.uuid4()
        session.add(nodes[-1])
        await session.flush()
    return [node.id for node in nodes]


async def test_a_step_on_top_of_a_kept_path_reads_no_path(
    model: dict[str, Any], database: AsyncDatabase, read: list[uuid.UUID | None]
):
    kept = Paths()
    async with database.session() as session:
        row, connection = await session.get_one(ModelRow, uuid.UUID(model["id"])), await driver_of(session)
        branch = await grow(session, row, 10)
        for step, node_id in enumerate(branch, 1):
            assert len((await kept.to(connection, row.id, node_id)).steps) == step
        await session.rollback()
    assert read == branch[:1]


async def test_the_paths_asked_for_longest_ago_are_forgotten(
    model: dict[str, Any], database: AsyncDatabase, read: list[uuid.UUID | None]
):
    kept, models = Paths(most_steps=7), [uuid.UUID(int=index) for index in range(3)]
    async with database.session() as session:
        row, connection = await session.get_one(ModelRow, uuid.UUID(model["id"])), await driver_of(session)
        branches = {model_id: await grow(session, row, 3) for model_id in models}
        for index in (0, 1, 0, 2, 0, 1):
            await kept.to(connection, models[index], branches[models[index]][-1])
        await session.rollback()
    assert read == [branches[models[index]][-1] for index in (0, 1, 2, 1)]
