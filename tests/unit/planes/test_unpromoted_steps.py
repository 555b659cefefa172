"""Steps without files: what a crash leaves is computed again to the same numbers, and files follow."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update

from store.blob_stores.file import FileBlobStore
from store.checkpoint_stores.file import FileCheckpointStore
from store.database import AsyncDatabase, Database
from store.invariants import check_all, check_files
from store.oplog.append import PlacedPayload
from store.oplog.client_order import append_in_order
from store.planes.registration import register_sampler
from store.tables import (
    AdapterWantRow,
    CheckpointNameRow,
    CheckpointRow,
    ClientSessionRow,
    ModelRow,
    OperationRow,
    SamplerAdapterRow,
    SamplingSessionRow,
)
from store.tree import move_head
from tests.unit.conftest import World
from tests.unit.planes.test_worker import TURN, CountingEngine, CountingSnapshot, Trainer, expire_leases
from trainer.worker.loop import Worker, WorkerSettings
from trainer.worker.snapshots import SnapshotPolicy
from wire.conversion import to_datums
from wire.datum_payload import encode_datums
from wire.engine import StepResult
from wire.payload import decode, encode
from wire.saves import SamplingSessionKey, SaveRequest, Use, encode_save
from wire.trajectories import Batch, Trajectory

NEVER = SnapshotPolicy(every_steps=10**9, every_s=1e9)


class OrderedEngine(CountingEngine):
    """Steps do not commute: each halves the weights, and adds its moments, which remember the gradients before."""

    def __init__(self) -> None:
        super().__init__()
        self.moments: dict[UUID, float] = {}

    def open(self, model, lora, adapter: Path | None, state: Path | None) -> None:
        super().open(model, lora, adapter, state)
        self.moments[model] = json.loads((state / "moments").read_text()) if state else 0.0

    def optim_step(self, model, adam, plan=None) -> StepResult:
        self._require(model)
        self.moments[model] = self.moments[model] / 3 + self.gradients[model]
        self.weights[model] = self.weights[model] / 2 + adam.learning_rate * self.moments[model]
        self.gradients[model] = 0.0
        return StepResult({"grad_norm": 1.0}, moved=True)

    def snapshot(self, model) -> CountingSnapshot:
        numbers = super().snapshot(model).numbers
        return CountingSnapshot(self, {**numbers, "state/moments": self.moments[model]})


class SlowSnapshot(CountingSnapshot):
    """Takes its time, and counts."""

    def write(self, adapter: Path, state: Path) -> None:
        time.sleep(0.2)
        super().write(adapter, state)
        self.engine.writes += 1


class SlowEngine(OrderedEngine):
    writes = 0

    def snapshot(self, model) -> SlowSnapshot:
        return SlowSnapshot(self, super().snapshot(model).numbers)


class RunTrainer(Trainer):
    """With a client that numbers its requests."""

    policy = NEVER

    def restart(self, trainer_id: UUID) -> None:
        super().restart(trainer_id)
        settings = WorkerSettings(self.world.base_id, trainer_id, promote_timeout_s=0.5, snapshots=self.policy)
        stores = FileBlobStore(self.folder / "blobs"), FileCheckpointStore(self.folder / "checkpoints")
        self.worker = Worker(self.database, *stores, self.engine, settings)
        self.number = getattr(self, "number", 0)

    engine_class = OrderedEngine

    def make_engine(self) -> OrderedEngine:
        return self.engine_class()

    def crash(self) -> None:
        """Another trainer, which has nothing in memory."""
        expire_leases(self.database)
        ids = [self.world.trainer_id, self.world.other_trainer_id]
        self.crashes = getattr(self, "crashes", 0) + 1
        self.restart(ids[self.crashes % 2])

    async def send(self, kind: str, payload: bytes) -> UUID:
        self.number += 1
        async with self.async_database.connection() as connection:
            sent = await append_in_order(
                connection,
                model_id=self.world.model_id,
                client_sequence=self.number,
                kind=kind,
                request_digest=str(self.number).encode(),
                placed=PlacedPayload(payload=payload, payload_blob=None),
            )
        assert sent is not None
        return sent

    async def gradient(self, reward: float) -> UUID:
        extra = {"loss_fn": "ppo", "loss_fn_config": {}, "num_substeps": 1}
        return await self.send(
            "forward_backward", encode_datums(to_datums(Batch([Trajectory((TURN,), reward)])), extra)
        )

    async def unpromoted_step(self, learning_rate: float = 1.0) -> UUID:
        return await self.send("unpromoted_step", encode({"learning_rate": learning_rate}))

    async def save(self, **request: Any) -> UUID:
        return await self.send("save_checkpoint", encode_save(SaveRequest(**request)))

    async def loop(self, *rewards: float) -> None:
        for number, reward in enumerate(rewards):
            await self.gradient(reward)
            await self.unpromoted_step(1.0 + number)

    def row(self, operation_id: UUID) -> OperationRow:
        with self.database.session() as session:
            return session.get_one(OperationRow, operation_id)

    def answer(self, operation_id: UUID) -> dict[str, Any]:
        row = self.row(operation_id)
        assert row.state == "done", (row.state, row.error_code, row.error_message)
        return decode(row.result or b"")[0]

    def nodes(self) -> list[CheckpointRow]:
        with self.database.session() as session:
            rows = session.scalars(select(CheckpointRow).order_by(CheckpointRow.created_at)).all()
            assert check_all(session) == []
        files = FileCheckpointStore(self.folder / "checkpoints")
        assert check_files(self.database, files) == []
        return list(rows)

    def saved(self) -> list[bool]:
        return [node.is_saved for node in self.nodes()]

    def wait_for_snapshot(self) -> None:
        """Until one was written."""
        while not any(self.saved()):
            time.sleep(0.02)

    def numbers(self) -> tuple[float, float]:
        model = self.world.model_id
        return self.engine.weights[model], self.engine.moments[model]


@pytest.fixture
def trainer(database: Database, async_database: AsyncDatabase, world: World, tmp_path: Path) -> RunTrainer:
    return RunTrainer(database, async_database, world, tmp_path)


@pytest.fixture
async def undisturbed(trainer: RunTrainer) -> tuple[float, float]:
    """What four steps come to."""
    weights = moments = 0.0
    for number, reward in enumerate((1.0, 2.0, 3.0, 4.0)):
        moments = moments / 3 + reward
        weights = weights / 2 + (1.0 + number) * moments
    return weights, moments


async def test_a_step_that_promotes_nothing_moves_the_head_and_writes_no_file(trainer: RunTrainer, undisturbed):
    await trainer.loop(1.0, 2.0, 3.0)
    await trainer.gradient(4.0)
    last = await trainer.unpromoted_step(4.0)
    trainer.work()
    assert trainer.numbers() == undisturbed
    answer = trainer.answer(last)
    assert (answer["step"], answer["metrics"]) == (4, {"num_gradients": 1.0, "grad_norm": 1.0})
    assert trainer.row(last).plan is not None
    nodes = trainer.nodes()
    assert [(n.step, n.is_saved, n.mean_reward, n.metrics["grad_norm"]) for n in nodes] == [
        (step, False, float(step), 1.0) for step in (1, 2, 3, 4)
    ]
    assert not (trainer.folder / "checkpoints").exists()
    assert trainer.engine.passes == 4, "nothing was loaded and computed again"
    with trainer.database.session() as session:
        model = session.get_one(ModelRow, trainer.world.model_id)
        assert (model.head_checkpoint_id, model.serves_head, model.served_checkpoint_id) == (nodes[-1].id, False, None)


async def test_a_head_without_files_is_computed_again_to_the_same_numbers(trainer: RunTrainer, undisturbed):
    await trainer.loop(1.0, 2.0)
    trainer.work()
    trainer.crash()
    await trainer.gradient(3.0)
    trainer.work()
    trainer.crash()
    await trainer.unpromoted_step(3.0)
    await trainer.gradient(4.0)
    await trainer.unpromoted_step(4.0)
    trainer.work()
    assert trainer.numbers() == undisturbed


async def test_only_what_lies_behind_the_last_files_is_computed_again(trainer: RunTrainer, undisturbed):
    await trainer.loop(1.0, 2.0, 3.0)
    await trainer.save(use=Use.TRAINING, name="third")
    trainer.work()
    assert trainer.saved() == [False, False, True]
    trainer.crash()
    await trainer.gradient(4.0)
    await trainer.unpromoted_step(4.0)
    trainer.work()
    assert trainer.engine.passes == 1
    trainer.crash()
    trainer.engine.passes = 0
    await trainer.gradient(0.0)
    trainer.work()
    assert (trainer.engine.passes, trainer.numbers()) == (2, undisturbed)


async def test_a_step_without_gradients_changes_nothing(trainer: RunTrainer):
    idle = await trainer.unpromoted_step()
    await trainer.gradient(1.0)
    stepped = await trainer.unpromoted_step()
    trainer.work()
    assert trainer.answer(idle) == {"metrics": {"num_gradients": 0.0}}
    assert trainer.answer(stepped)["step"] == 1
    assert len(trainer.nodes()) == 1


async def test_a_failed_pass_leaves_its_step_as_if_it_had_not_been_sent(trainer: RunTrainer):
    failed = await trainer.gradient(-1.0)
    await trainer.loop(5.0)
    trainer.work()
    assert (trainer.row(failed).error_code, trainer.numbers()[0]) == ("invalid_request", 5.0)


async def test_files_are_written_in_the_background_every_so_many_steps(trainer: RunTrainer, undisturbed):
    trainer.policy = SnapshotPolicy(every_steps=2, every_s=1e9)
    trainer.restart(trainer.world.trainer_id)
    for reward, rate in ((1.0, 1.0), (2.0, 2.0), (3.0, 3.0)):
        await trainer.gradient(reward)
        await trainer.unpromoted_step(rate)
        trainer.work()
    trainer.worker.close()
    assert trainer.saved() == [False, True, False]
    trainer.crash()
    await trainer.gradient(4.0)
    await trainer.unpromoted_step(4.0)
    trainer.work()
    assert (trainer.engine.passes, trainer.numbers()) == (2, undisturbed)


async def test_a_disk_that_refuses_a_snapshot_stops_nothing(trainer: RunTrainer, undisturbed):
    trainer.policy = SnapshotPolicy(every_steps=1)
    trainer.restart(trainer.world.trainer_id)
    trainer.engine.refuse_saving = True
    await trainer.loop(1.0, 2.0, 3.0, 4.0)
    trainer.work()
    assert trainer.numbers() == undisturbed
    trainer.engine.refuse_saving = False
    trainer.wait_for_snapshot()
    assert sum(trainer.saved()) == 1


async def test_files_that_a_dead_trainer_left_are_taken_or_replaced(trainer: RunTrainer):
    await trainer.loop(1.0)
    trainer.work()
    (node,) = trainer.nodes()
    store = FileCheckpointStore(trainer.folder / "checkpoints")
    for content in (b"1.0", b"what a power cut left"):
        with store.stage(trainer.world.model_id, node.id) as staged:
            (staged / "adapter" / "weights").write_bytes(content)
            (staged / "state" / "moments").write_bytes(b"1.0")
            store.remove(trainer.world.model_id, node.id)
            store.publish(trainer.world.model_id, node.id, staged)
        with trainer.database.session() as session:
            session.execute(update(CheckpointRow).values(is_saved=False))
        saved = await trainer.save(use=Use.FILES)
        trainer.work()
        assert trainer.answer(saved)["checkpoint_id"] == str(node.id)
        assert trainer.saved() == [True]
        assert trainer.served_weights() == 1.0


async def test_a_save_names_the_node_that_it_finds_in_its_place(trainer: RunTrainer):
    start = await trainer.save(use=Use.SAMPLER, name="start")
    await trainer.loop(1.0)
    first = await trainer.save(use=Use.TRAINING, name="a", user_metadata={"k": "v"}, ttl_seconds=3600)
    await trainer.loop(2.0)
    taken = await trainer.save(use=Use.TRAINING, name="a")
    again = await trainer.save(use=Use.TRAINING, name="a", overwrite=True)
    other_use = await trainer.save(use=Use.SAMPLER, name="a")
    trainer.work()
    root, one, two = trainer.nodes()
    assert [(n.step, n.is_saved, n.parent_id) for n in (root, one, two)] == [
        (0, True, None),
        (1, True, root.id),
        (2, True, one.id),
    ]
    assert trainer.answer(start)["checkpoint_id"] == str(root.id)
    answer = trainer.answer(first)
    assert (answer["checkpoint_id"], answer["name"], answer["use"]) == (str(one.id), "a", "training")
    sizes = [sum(file["size"] for file in node.manifest["files"].values()) for node in (one, two)]
    assert (answer["size_bytes"], trainer.answer(again)["size_bytes"]) == tuple(sizes)
    assert 0 < trainer.answer(other_use)["size_bytes"] < sizes[1], "without the moments"
    assert trainer.row(taken).error_code == "name_taken"
    assert trainer.answer(again)["checkpoint_id"] == str(two.id)
    with trainer.database.session() as session:
        names = session.scalars(select(CheckpointNameRow).order_by(CheckpointNameRow.created_at)).all()
        found = [(n.kind, n.name, n.checkpoint_id, n.user_metadata, n.expires_at) for n in names]
        assert found == [
            ("sampler", "start", root.id, None, None),
            ("training", "a", two.id, None, None),
            ("sampler", "a", two.id, None, None),
        ]
        assert session.get_one(ModelRow, trainer.world.model_id).served_checkpoint_id == two.id
    assert trainer.numbers()[0] == 0.5 + (2.0 + 1 / 3), "saving changed nothing"


async def test_ephemeral_saves_open_sampling_sessions(trainer: RunTrainer):
    with trainer.database.session() as session:
        session.add(ClientSessionRow(id="s", team_id=trainer.world.team_id))
    kinds = (Use.INFLIGHT, Use.SNAPSHOT, Use.INFLIGHT)
    saves = []
    for index, use in enumerate(kinds):
        saves.append(await trainer.save(use=use, sampling_session=SamplingSessionKey("s", index)))
        await trainer.loop(1.0)
    trainer.work()
    answers = [trainer.answer(save) for save in saves]
    assert [answer["sampling_session_id"] for answer in answers] == ["s:sample:0", "s:sample:1", "s:sample:2"]
    with trainer.database.session() as session:
        rows = session.scalars(select(SamplingSessionRow).order_by(SamplingSessionRow.session_index)).all()
        first, second, third = (str(row.checkpoint_id) for row in rows)
        assert session.scalars(select(CheckpointNameRow)).all() == []
    assert (second, third) == (answers[1]["checkpoint_id"], answers[2]["checkpoint_id"])
    assert first == third, "what is in flight follows the run"


async def test_any_node_can_be_given_files_and_become_the_head_again(trainer: RunTrainer):
    await trainer.loop(1.0, 2.0, 3.0)
    trainer.work()
    second = trainer.nodes()[1]
    weights, passes = trainer.engine.weights[trainer.world.model_id], trainer.engine.passes
    pending = await trainer.gradient(7.0)
    saved = await trainer.save(use=Use.FILES, checkpoint_id=second.id)
    trainer.work()
    assert trainer.answer(saved)["checkpoint_id"] == str(second.id)
    assert trainer.saved() == [False, True, False]
    files = FileCheckpointStore(trainer.folder / "checkpoints").fetch(second.model_id, second.id)
    assert json.loads((files.adapter / "weights").read_text()) == 0.5 + 2.0 * (2.0 + 1 / 3)
    assert trainer.engine.passes == passes + 1 + 2
    await trainer.unpromoted_step(0.0)
    trainer.work()
    assert trainer.row(pending).consumed_by_id is not None
    assert trainer.engine.weights[trainer.world.model_id] == weights / 2, "on the head, with what was pending"
    async with trainer.async_database.session() as session:
        await move_head(session, trainer.world.model_id, second.id)
    await trainer.loop(0.0)
    trainer.work()
    assert trainer.nodes()[-1].parent_id == second.id


async def test_a_head_is_moved_to_a_node_without_files_and_back(trainer: RunTrainer):
    await trainer.loop(1.0, 2.0, 3.0)
    trainer.work()
    first, _, third = trainer.nodes()
    numbers = trainer.numbers()
    for node in (first, third):
        async with trainer.async_database.session() as session:
            await move_head(session, trainer.world.model_id, node.id)
        await trainer.gradient(0.0)
        trainer.work()
        if node is first:
            assert trainer.numbers() == (1.0, 1.0)
    assert trainer.numbers() == numbers


async def test_a_step_that_promotes_makes_the_name_stand_for_the_head_again(trainer: RunTrainer):
    await trainer.loop(1.0)
    await trainer.pass_of(2.0)
    await trainer.step()
    await trainer.loop(3.0)
    trainer.work()
    one, two, three = trainer.nodes()
    assert [n.is_saved for n in (one, two, three)] == [False, True, False]
    assert trainer.engine.passes == 3
    with trainer.database.session() as session:
        model = session.get_one(ModelRow, trainer.world.model_id)
        served = model.served_checkpoint_id
        assert (model.head_checkpoint_id, model.serves_head, served) == (three.id, False, two.id)


async def test_a_head_without_files_that_is_idle_is_written(trainer: RunTrainer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("trainer.worker.open_models._IDLE_SNAPSHOT_S", 0.0)
    await trainer.loop(1.0)
    trainer.work()
    trainer.worker._let_go_of_idle_models()
    trainer.worker.close()
    assert trainer.saved() == [True]


async def test_a_save_waits_for_the_snapshot_of_its_node_and_writes_no_second_one(trainer: RunTrainer):
    trainer.engine_class, trainer.policy = SlowEngine, SnapshotPolicy(every_steps=1)
    trainer.restart(trainer.world.trainer_id)
    await trainer.loop(1.0)
    saves = [await trainer.save(use=use, name="a") for use in (Use.TRAINING, Use.SAMPLER)]
    trainer.work()
    assert [trainer.answer(save)["name"] for save in saves] == ["a", "a"]
    assert trainer.saved() == [True]
    assert trainer.engine.writes == 1


@pytest.mark.parametrize("is_refused", [False, True])
async def test_a_save_for_samplers_fails_only_if_all_of_them_refuse_it(trainer: RunTrainer, is_refused: bool):
    await trainer.loop(1.0)
    trainer.work()
    (node,) = trainer.nodes()
    with trainer.database.session() as session:
        sampler = register_sampler(session, trainer.world.base_id, "http://127.0.0.1:1", "local")
        if is_refused:
            refusal = {"state": "failed", "error": "it is too large"}
            session.add(SamplerAdapterRow(sampler_id=sampler, adapter=node.adapter_name, **refusal))
    save = await trainer.save(use=Use.SAMPLER, name="a")
    after = await trainer.save(use=Use.TRAINING, name="a")
    trainer.work()
    row = trainer.row(save)
    if is_refused:
        assert (row.error_code, "too large" in (row.error_message or "")) == ("promotion_rejected", True)
    else:
        assert row.state == "done", "none had it in time, and may have it later"
    assert trainer.answer(after)["checkpoint_id"] == str(node.id)
    with trainer.database.session() as session:
        kinds = set(session.scalars(select(CheckpointNameRow.kind)))
        served = session.get_one(ModelRow, trainer.world.model_id).served_checkpoint_id
        wanted = set(session.scalars(select(AdapterWantRow.checkpoint_id)))
    assert kinds == ({"training"} if is_refused else {"training", "sampler"})
    assert (served, wanted) == (None if is_refused else node.id, {node.id})
