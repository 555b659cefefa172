"""What a trainer and a sampler make of checkpoints whose files were thinned, harmed or lost."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from sampler.agent import Agent, AgentSettings
from store.blob_stores import BlobStore
from store.blob_stores.file import FileBlobStore
from store.checkpoint_stores.file import FileCheckpointStore
from store.database import AsyncDatabase, Database
from store.invariants import check_all
from store.retention.collecting import Collector
from store.retention.policy import RetentionPolicy
from store.tables import CheckpointRow, SamplerAdapterRow
from store.tree import move_head
from store.verification import missing_files
from tests.unit.conftest import World
from tests.unit.planes.test_agent import Holder
from tests.unit.planes.test_worker import CountingEngine, CountingSnapshot, Trainer
from trainer.worker.loop import Worker, WorkerSettings


class CountingEngineWithMoments(CountingEngine):
    """Its moment counts the steps, and is saved as optimizer state."""

    def __init__(self) -> None:
        super().__init__()
        self.moments: dict[UUID, int] = {}

    def open(self, model, lora, adapter: Path | None, state: Path | None) -> None:
        super().open(model, lora, adapter, state)
        self.moments[model] = json.loads((state / "moments").read_text()) if state else 0

    def optim_step(self, model, adam, plan=None):
        result = super().optim_step(model, adam, plan)
        self.moments[model] += 1
        return result

    def snapshot(self, model) -> CountingSnapshot:
        numbers = super().snapshot(model).numbers
        return CountingSnapshot(self, {**numbers, "state/moments": self.moments[model]})


class ThinnedTrainer(Trainer):
    engine: CountingEngineWithMoments

    def restart(self, trainer_id: UUID) -> None:
        self.engine = CountingEngineWithMoments()
        settings = WorkerSettings(self.world.base_id, trainer_id)
        self.worker = Worker(self.database, self.blobs, self.checkpoints, self.engine, settings)

    @property
    def blobs(self) -> BlobStore:
        return FileBlobStore(self.folder / "blobs")

    @property
    def checkpoints(self) -> FileCheckpointStore:
        return FileCheckpointStore(self.folder / "checkpoints")

    async def step_to(self, reward: float) -> CheckpointRow:
        await self.pass_of(reward)
        await self.step()
        self.work()
        head = self.head()
        assert head is not None
        return head

    async def move_head(self, checkpoint: CheckpointRow) -> None:
        async with self.async_database.session() as session:
            await move_head(session, self.world.model_id, checkpoint.id)

    def thin(self) -> None:
        policy = RetentionPolicy(keep_last_states=1, keep_every_states=0)
        Collector(self.database, self.blobs, self.checkpoints, policy).collect()

    def moments(self) -> int:
        return self.engine.moments[self.world.model_id]

    def file(self, checkpoint: CheckpointRow, path: str) -> Path:
        return self.folder / "checkpoints" / checkpoint.model_id.hex / checkpoint.id.hex / path


@pytest.fixture
def trainer(database: Database, async_database: AsyncDatabase, world: World, tmp_path: Path) -> ThinnedTrainer:
    return ThinnedTrainer(database, async_database, world, tmp_path)


def flip(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


async def test_a_rollback_to_a_node_with_its_state_goes_on_with_its_moments(trainer: ThinnedTrainer):
    first, _ = await trainer.step_to(1.0), await trainer.step_to(1.0)
    await trainer.move_head(first)
    branched = await trainer.step_to(1.0)
    assert trainer.moments() == 2
    assert "fresh_moments" not in branched.metrics


async def test_a_rollback_to_a_thinned_node_goes_on_with_fresh_moments_and_says_so(trainer: ThinnedTrainer):
    first, _ = await trainer.step_to(1.0), await trainer.step_to(2.0)
    trainer.thin()
    await trainer.move_head(first)
    branched = await trainer.step_to(5.0)
    assert trainer.served_weights() == 6.0
    assert trainer.moments() == 1
    assert branched.metrics["fresh_moments"] == 1.0
    after = await trainer.step_to(5.0)
    assert trainer.moments() == 2
    assert "fresh_moments" not in after.metrics


async def test_a_state_that_is_thinned_while_it_is_being_loaded_is_done_without(
    trainer: ThinnedTrainer, monkeypatch: pytest.MonkeyPatch
):
    """The head moved away from it after the operation had begun."""
    first, second = await trainer.step_to(1.0), await trainer.step_to(2.0)
    await trainer.move_head(first)
    fetch, fetched = FileCheckpointStore.fetch, []

    def thin_and_fetch(store, model, checkpoint, *, state=True):
        if not fetched:
            fetched.append(checkpoint)
            with trainer.database.session() as session:
                session.get_one(CheckpointRow, first.id).state_removed_at = second.committed_at
            store.remove(model, checkpoint, "state")
        return fetch(store, model, checkpoint, state=state)

    monkeypatch.setattr(FileCheckpointStore, "fetch", thin_and_fetch)
    passed = await trainer.pass_of(1.0)
    trainer.work()
    assert trainer.now(passed).state == "done"
    assert fetched == [first.id]


async def test_steps_and_rollbacks_go_on_while_somebody_collects(trainer: ThinnedTrainer, database: Database):
    """Every operation succeeds, from whichever node, and the tree stays sound."""
    stop, failures = threading.Event(), []

    def keep_thinning() -> None:
        while not stop.is_set():
            try:
                trainer.thin()
            except Exception as failure:
                failures.append(failure)

    collecting = threading.Thread(target=keep_thinning)
    collecting.start()
    try:
        random, nodes = Random(0), [await trainer.step_to(1.0)]
        for _ in range(25):
            if random.random() < 0.5:
                await trainer.move_head(random.choice(nodes))
            if random.random() < 0.3:
                trainer.restart(trainer.world.trainer_id)
            head = trainer.head()
            nodes.append(await trainer.step_to(1.0))
            assert nodes[-1].parent_id == (head.id if head else None)
            assert ("fresh_moments" in nodes[-1].metrics) == (trainer.moments() == 1 and nodes[-1].step > 1)
    finally:
        stop.set()
        collecting.join()
    assert failures == []
    with database.session() as session:
        assert check_all(session) == []
    assert missing_files(database, trainer.checkpoints) == []


@pytest.mark.parametrize("path", ["adapter/weights", "state/moments"])
@pytest.mark.parametrize("harm", [flip, Path.unlink])
async def test_a_harmed_head_is_waited_for_by_name_and_never_trained_on(trainer: ThinnedTrainer, path: str, harm):
    head = await trainer.step_to(1.0)
    harm(trainer.file(head, path))
    trainer.restart(trainer.world.trainer_id)
    passed, stepped = await trainer.pass_of(1.0), await trainer.step()
    trainer.work()
    row = trainer.now(passed)
    assert row.state == "queued", "it waits for a file that can be put back"
    assert path.split("/")[1] in (row.retry_reason or "")
    assert head.id.hex in (row.retry_reason or "")
    assert trainer.now(stepped).state == "queued"
    assert trainer.engine.passes == 0
    now = trainer.head()
    assert now is not None
    assert now.id == head.id


@pytest.mark.parametrize("harm", [flip, Path.unlink])
async def test_a_harmed_adapter_is_named_and_never_served(
    trainer: ThinnedTrainer, database: Database, world: World, harm
):
    head = await trainer.step_to(1.0)
    harm(trainer.file(head, "adapter/weights"))
    holder = Holder()
    agent = Agent(
        database, trainer.checkpoints, holder, AgentSettings(world.base_id, "http://127.0.0.1:1", "local", 0.0)
    )
    agent.reconcile()
    assert head.adapter_name not in holder.names
    with database.session() as session:
        row = session.query(SamplerAdapterRow).filter_by(adapter=head.adapter_name).one()
    assert row.state == "failed"
    assert "weights of checkpoint" in (row.error or "")


async def test_a_thinned_checkpoint_is_still_served(trainer: ThinnedTrainer, database: Database, world: World):
    first, _ = await trainer.step_to(1.0), await trainer.step_to(1.0)
    trainer.thin()
    await trainer.move_head(first)
    holder = Holder()
    Agent(
        database, trainer.checkpoints, holder, AgentSettings(world.base_id, "http://127.0.0.1:1", "local", 0.0)
    ).reconcile()
    assert first.adapter_name in holder.names
