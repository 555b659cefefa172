"""Runs drawn at random, beside the same arithmetic in memory: passes, steps of both kinds, saves, crashes, heads that
are moved, and retention."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from sqlalchemy import text

from store.blob_stores.file import FileBlobStore
from store.checkpoint_stores.file import FileCheckpointStore
from store.retention.collecting import Collector
from store.retention.policy import RetentionPolicy
from store.tables import ModelRow
from store.tree import move_head
from tests.unit.planes.test_unpromoted_steps import NEVER, RunTrainer, trainer
from trainer.worker.snapshots import SnapshotPolicy
from wire.saves import Use

__all__ = ["trainer"]

ROUNDS = 8
CALLS = (*["gradient", "unpromoted"] * 4, "refused", "save", "promoted")


@dataclass
class Expected:
    """What the engine should hold; and what it held at each node that was a head between two rounds."""

    weights: float = 0.0
    moments: float = 0.0
    gradient: float = 0.0
    num_pending: int = 0
    nodes: dict[UUID | None, tuple[float, float]] = field(default_factory=dict)

    def add(self, reward: float) -> None:
        self.gradient, self.num_pending = self.gradient + reward, self.num_pending + 1

    def step(self, learning_rate: float) -> None:
        if self.num_pending:
            self.moments = self.moments / 3 + self.gradient
            self.weights = self.weights / 2 + learning_rate * self.moments
        self.gradient, self.num_pending = 0.0, 0

    def go_to(self, node: UUID | None, *, is_thinned: bool) -> None:
        weights, moments = self.nodes[node]
        self.weights, self.moments = weights, 0.0 if is_thinned else moments
        self.gradient, self.num_pending = 0.0, 0


async def send(trainer: RunTrainer, expected: Expected, draw: random.Random) -> None:
    call, number = draw.choice(CALLS), float(draw.randint(0, 9))
    if call == "gradient":
        await trainer.gradient(number)
        expected.add(number)
    elif call == "refused":
        await trainer.gradient(-1.0)
    elif call == "unpromoted":
        await trainer.unpromoted_step(number)
        expected.step(number)
    elif call == "promoted":
        await trainer.pass_of(number)
        await trainer.step()
        expected.add(number)
        expected.step(1.0)
    else:
        await trainer.save(use=draw.choice((Use.TRAINING, Use.SAMPLER)), name=f"n{trainer.number}")


def head_of(trainer: RunTrainer) -> UUID | None:
    with trainer.database.session() as session:
        return session.get_one(ModelRow, trainer.world.model_id).head_checkpoint_id


async def move_somewhere(trainer: RunTrainer, expected: Expected, draw: random.Random) -> None:
    kept = {None: False}
    kept |= {node.id: node.state_removed_at is not None for node in trainer.nodes() if node.files_removed_at is None}
    target = draw.choice([node for node in expected.nodes if node in kept])
    async with trainer.async_database.session() as session:
        await move_head(session, trainer.world.model_id, target)
    expected.go_to(target, is_thinned=kept[target])


def collect(trainer: RunTrainer) -> None:
    """Two days later."""
    with trainer.database.session() as session:
        session.execute(text("update checkpoints set committed_at = committed_at - interval '2 days'"))
    stores = FileBlobStore(trainer.folder / "blobs"), FileCheckpointStore(trainer.folder / "checkpoints")
    Collector(trainer.database, *stores, RetentionPolicy(keep_last_states=1)).collect()


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] if seed > 1 else []) for seed in range(12)]
)
async def test_a_random_run_holds_what_arithmetic_says(trainer: RunTrainer, seed: int):
    draw, expected = random.Random(seed), Expected()
    trainer.policy = draw.choice((NEVER, NEVER, *(SnapshotPolicy(every_steps=steps, every_s=1e9) for steps in (2, 3))))
    trainer.restart(trainer.world.trainer_id)
    for _ in range(ROUNDS):
        for _ in range(draw.randint(1, 5)):
            await send(trainer, expected, draw)
        trainer.work()
        model = trainer.world.model_id
        if trainer.engine.holds(model):
            found = (*trainer.numbers(), trainer.engine.gradients[model])
            assert found == (expected.weights, expected.moments, expected.gradient)
        expected.nodes[head_of(trainer)] = expected.weights, expected.moments
        if draw.random() < 0.5:
            collect(trainer)
        if draw.random() < 0.3:
            await move_somewhere(trainer, expected, draw)
        if draw.random() < 0.5:
            trainer.crash()
        trainer.nodes()
