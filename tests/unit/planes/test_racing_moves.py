"""Passes, steps and moves of the head from several clients at once: the tree that is left is one of some serial order.

Every pass adds a power of two of its own, so a checkpoint's weights say which passes are in it.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time

import pytest
from sqlalchemy import select

from store.checkpoint_stores.file import FileCheckpointStore
from store.invariants import check_all
from store.oplog.append import Appended
from store.tables import CheckpointRow, OperationRow
from store.tree import move_head
from tests.unit.planes.test_worker import Trainer, trainer  # noqa: F401 - a fixture

NUM_CLIENTS, NUM_CALLS = 3, 12


@pytest.mark.parametrize("seed", range(3))
async def test_racing_steps_and_rollbacks_end_in_a_tree_that_a_serial_order_explains(trainer: Trainer, seed: int):  # noqa: F811
    stop = threading.Event()
    working = asyncio.create_task(asyncio.to_thread(work_until, stop, trainer))
    powers = iter(2.0**i for i in range(200))
    passes: dict[Appended, float] = {}

    async def client(rng: random.Random) -> None:
        for _ in range(NUM_CALLS):
            what = rng.choice(["pass", "pass", "pass", "step", "step", "move"])
            if what == "pass":
                reward = next(powers)
                passes[await trainer.pass_of(reward)] = reward
            elif what == "step":
                await ended(trainer, await trainer.step())
            else:
                await move_somewhere(trainer, rng)
            await asyncio.sleep(rng.uniform(0, 0.02))

    try:
        async with asyncio.timeout(60):
            await asyncio.gather(*(client(random.Random(f"{seed} {i}")) for i in range(NUM_CLIENTS)))
            last = next(powers)
            passes[await trainer.pass_of(last)] = last
            await ended(trainer, await trainer.step())
    finally:
        stop.set()
        await working
    explain(trainer, passes)


def work_until(stop: threading.Event, trainer: Trainer) -> None:  # noqa: F811
    while not stop.is_set():
        if not trainer.worker.work_once():
            time.sleep(0.005)


async def ended(trainer: Trainer, operation: Appended) -> None:  # noqa: F811
    while trainer.now(operation).state in ("queued", "running"):  # noqa: ASYNC110 - by the worker's thread
        await asyncio.sleep(0.01)


async def move_somewhere(trainer: Trainer, rng: random.Random) -> None:  # noqa: F811
    async with trainer.async_database.session() as session:
        committed = CheckpointRow.status == "committed"
        nodes = list(await session.scalars(select(CheckpointRow.id).where(committed).order_by(CheckpointRow.step)))
        await move_head(session, trainer.world.model_id, rng.choice([None, *nodes]))


def explain(trainer: Trainer, passes: dict[Appended, float]) -> None:  # noqa: F811
    """Each node is its parent and the passes that its step consumed; each pass is in at most one step, in order."""
    with trainer.database.session() as session:
        assert check_all(session) == []
        nodes = {c.id: c for c in session.scalars(select(CheckpointRow).where(CheckpointRow.status == "committed"))}
        operations = {o.id: o for o in session.scalars(select(OperationRow))}
    store = FileCheckpointStore(trainer.folder / "checkpoints")
    weights = {None: 0.0}
    for node in nodes.values():
        files = store.fetch(node.files_model_id, node.files_id)
        weights[node.id] = json.loads((files.adapter / "weights").read_text())
    steps = sorted((o for o in operations.values() if o.kind == "optim_step" and o.state == "done"), key=by_sequence)
    for step, node in zip(steps, sorted(nodes.values(), key=lambda c: c.committed_at), strict=True):
        consumed = sum(reward for p, reward in passes.items() if operations[p.id].consumed_by_id == step.id)
        assert weights[node.id] == weights[node.parent_id] + consumed
    told = {operations[p.id].state for p in passes}
    assert told <= {"done", "superseded"}
    assert steps, "nothing was shown"


def by_sequence(operation: OperationRow) -> int:
    return operation.sequence
