"""The trainer's worker against a real database and store; its engine counts instead of computing."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import update

from server.training.forwards import open_forward
from store.blob_stores.file import FileBlobStore
from store.checkpoint_stores.file import FileCheckpointStore
from store.database import AsyncDatabase, Database
from store.oplog import leases, work
from store.oplog.append import Appended, append_operation
from store.oplog.work import Lease
from store.rollouts import NewSample, TraceRecord, record
from store.rollouts.trainer_logprobs import read_trainer_logprobs
from store.tables import CheckpointRow, ModelRow, OperationRow
from store.tree import move_head
from tests.unit.conftest import World
from trainer.worker.cancellation import Cancellation
from trainer.worker.instruments import TrainerMetrics
from trainer.worker.logprob_keeper import LogprobKeeper
from trainer.worker.loop import Worker, WorkerSettings
from wire.conversion import to_datums
from wire.datum_payload import encode_datums
from wire.engine import BaseModelInfo, PassResult, StepResult
from wire.errors import InvalidRequest, NonFinite, NotFound
from wire.payload import decode, encode
from wire.plans import Plan, PlanSettings, StepPlan, plan_of
from wire.trajectories import Batch, Trajectory, Turn

TURN = Turn(np.array([1], np.int32), np.array([2], np.int32), np.array([-1.0], np.float32))


class CountingSnapshot:
    """The numbers of a model, by file."""

    def __init__(self, engine: CountingEngine, numbers: dict[str, float]) -> None:
        self.engine, self.numbers = engine, numbers

    def write(self, adapter: Path, state: Path) -> None:
        if self.engine.refuse_saving:
            raise OSError("no space left on device")
        for name, number in self.numbers.items():
            part, _, file = name.partition("/")
            ({"adapter": adapter, "state": state}[part] / file).write_text(json.dumps(number))


class CountingEngine:
    """Weights and gradients are numbers: a pass adds its reward, a step moves the weights there. It plans as many
    trajectories a micro-batch as its settings allow tokens."""

    info = BaseModelInfo(10, 10, "none", "float32", 1)

    def __init__(self) -> None:
        self.losses: dict[str, dict[str, float]] = {}
        self.weights: dict[UUID, float] = {}
        self.gradients: dict[UUID, float] = {}
        self.passes = 0
        self.settings = PlanSettings(2, 1)
        self.plans: list[Plan] = []
        self.pictures: list[Mapping[bytes, bytes]] = []
        self.refuse_saving = False
        self.logprobs: list[np.ndarray] | None = None

    def open(self, model, lora, adapter: Path | None, state) -> None:
        self.weights[model] = json.loads((adapter / "weights").read_text()) if adapter else 0.0
        self.gradients[model] = 0.0

    def holds(self, model) -> bool:
        return model in self.weights

    def close(self, model) -> None:
        self.weights.pop(model, None)
        self.gradients.pop(model, None)

    def plan(self, datums, num_substeps=1, settings=None) -> Plan:
        settings = settings or self.settings
        indices, size = range(len(datums)), settings.max_tokens_per_pass
        shard = [indices[i : i + size] for i in range(0, len(indices), size)]
        return plan_of([shard], settings, "none")

    def forward_backward(self, model, datums, loss, plan=None, pictures=()) -> PassResult:
        reward = datums[0].origin.reward
        if reward < 0:
            raise InvalidRequest("input 0: negative")
        self._require(model)
        self.passes += 1
        self.plans.append(plan)
        self.pictures.append(pictures)
        self.gradients[model] += reward
        return PassResult({"reward_mean": reward}, 1, 1, self.logprobs)

    def evaluate(self, model, datums, loss, plan=None, pictures=()) -> PassResult:
        self._require(model)
        return PassResult({"loss:sum": 0.0}, len(datums), 1, self.logprobs)

    def plan_step(self) -> StepPlan:
        return StepPlan(self.settings.threads)

    def optim_step(self, model, adam, plan=None) -> StepResult:
        self._require(model)
        self.weights[model] += self.gradients[model]
        self.gradients[model] = 0.0
        return StepResult({}, moved=True)

    def snapshot(self, model) -> CountingSnapshot:
        self._require(model)
        return CountingSnapshot(self, {"adapter/weights": self.weights[model]})

    def _require(self, model) -> None:
        if not self.holds(model):
            raise NotFound(f"model {model} is not open")


class Trainer:
    def __init__(self, database: Database, async_database: AsyncDatabase, world: World, folder: Path) -> None:
        self.database, self.async_database, self.world, self.folder = database, async_database, world, folder
        self.restart(world.trainer_id)

    def restart(self, trainer_id: UUID) -> None:
        """A new process: nothing in memory."""
        self.engine = self.make_engine()
        settings = WorkerSettings(self.world.base_id, trainer_id)
        stores = FileBlobStore(self.folder / "blobs"), FileCheckpointStore(self.folder / "checkpoints")
        self.metrics = TrainerMetrics()
        self.keeper = LogprobKeeper(self.database, self.metrics)
        kept = {"metrics": self.metrics, "keeper": self.keeper}
        self.worker = Worker(self.database, *stores, self.engine, settings, self.cancellation(settings), **kept)

    def make_engine(self) -> CountingEngine:
        return CountingEngine()

    def cancellation(self, settings: WorkerSettings) -> Cancellation | None:
        return None

    def another_model(self) -> UUID:
        with self.database.session() as session:
            model = ModelRow(
                team_id=self.world.team_id, base_id=self.world.base_id, slug="other", name="other", lora={"rank": 4}
            )
            session.add(model)
            session.flush()
            return model.id

    async def ask(self, kind: str, payload: bytes, *, with_key: bool = True, model_id: UUID | None = None) -> Appended:
        """Without a key, and since no call waits for the answer, the operation is unacknowledged."""
        key = uuid.uuid4().hex if with_key else None
        values = {"model_id": model_id or self.world.model_id, "kind": kind, "payload": payload, "idempotency_key": key}
        async with self.async_database.connection() as connection:
            return await append_operation(connection, **values)

    async def pass_of(
        self, reward: float, *, with_key: bool = True, trace_id: str | None = None, model_id: UUID | None = None
    ) -> Appended:
        extra = {"loss_fn": "ppo", "loss_fn_config": {}, "num_substeps": 1}
        payload = encode_datums(to_datums(Batch([Trajectory((TURN,), reward, trace_id)])), extra)
        return await self.ask("forward_backward", payload, with_key=with_key, model_id=model_id)

    async def step(self, *, model_id: UUID | None = None) -> Appended:
        return await self.ask("optim_step", encode({"learning_rate": 1.0}), model_id=model_id)

    def work(self) -> None:
        while self.worker.work_once():
            pass

    def now(self, operation: Appended) -> OperationRow:
        with self.database.session() as session:
            return session.get_one(OperationRow, operation.id)

    def head(self, model_id: UUID | None = None) -> CheckpointRow | None:
        with self.database.session() as session:
            head_id = session.get_one(ModelRow, model_id or self.world.model_id).head_checkpoint_id
            return session.get(CheckpointRow, head_id) if head_id else None

    def served_weights(self, model_id: UUID | None = None) -> float:
        head = self.head(model_id)
        assert head is not None
        files = FileCheckpointStore(self.folder / "checkpoints").fetch(head.files_model_id, head.files_id)
        return json.loads((files.adapter / "weights").read_text())


@pytest.fixture
def trainer(database: Database, async_database: AsyncDatabase, world: World, tmp_path: Path) -> Trainer:
    return Trainer(database, async_database, world, tmp_path)


async def test_a_step_applies_every_acknowledged_pass_and_moves_the_head(trainer: Trainer):
    for reward in (1.0, 2.0):
        await trainer.pass_of(reward)
    step = await trainer.step()
    trainer.work()
    assert trainer.now(step).state == "done"
    head = trainer.head()
    assert head is not None
    assert (head.step, head.mean_reward, head.num_traces, head.loss_fn) == (1, 1.5, 2, "ppo")
    assert trainer.served_weights() == 3.0


@pytest.mark.parametrize("kind", ["forward", "forward_backward"])
async def test_a_pass_returns_the_logprobs_that_its_caller_asked_for(trainer: Trainer, kind: str):
    trainer.engine.logprobs = [np.array([-1.0, -2.0], np.float32), np.array([[-3.0, -4.0]], np.float32)]
    call = {"loss_fn": "cross_entropy", "loss_fn_config": {}, "num_substeps": 1, "returns_logprobs": True}
    payload = encode_datums(to_datums(Batch([Trajectory((TURN,), 1.0)])), call)
    asked = await trainer.ask(kind, payload)
    trainer.work()
    header, arrays = decode(trainer.now(asked).result or b"")
    assert header["shapes"] == [[2], [1, 2]]
    assert arrays["logprobs"].tolist() == [-1.0, -2.0, -3.0, -4.0]
    assert "metrics" in header
    assert trainer.engine.passes == (kind == "forward_backward")


async def test_a_forward_that_returned_what_a_loss_costs_is_no_handle_for_weights(trainer: Trainer):
    trainer.engine.logprobs = [np.array([-1.0], np.float32)]
    call = {"loss_fn": "cross_entropy", "loss_fn_config": {}, "num_substeps": 1, "returns_logprobs": True}
    asked = await trainer.ask("forward", encode_datums(to_datums(Batch([Trajectory((TURN,), 1.0)])), call))
    trainer.work()
    blobs = FileBlobStore(trainer.folder / "blobs")
    with pytest.raises(NotFound, match="returned the logprobs of a loss"):
        await open_forward(trainer.async_database, blobs, trainer.world.model_id, str(asked.id))


async def a_rollout(trainer: Trainer) -> UUID:
    trace_id, team_id = uuid.uuid4(), trainer.world.team_id
    sample = NewSample(team_id, trace_id, TURN)
    blobs = FileBlobStore(trainer.folder / "blobs")
    await record(trainer.async_database, blobs, [TraceRecord(team_id, trace_id, [sample])])
    return trace_id


async def test_what_a_pass_made_of_a_rollout_is_kept_and_replays_do_not_change_it(trainer: Trainer):
    trace_id = await a_rollout(trainer)
    trainer.engine.logprobs = [np.array([-2.5], np.float32)]
    done = await trainer.pass_of(1.0, trace_id=trace_id.hex)
    await trainer.pass_of(1.0, trace_id="a name of the client's own")
    trainer.work()
    trainer.keeper.close()
    expire_leases(trainer.database)
    trainer.restart(trainer.world.other_trainer_id)
    trainer.engine.logprobs = [np.array([-9.0], np.float32)]
    await trainer.step()
    trainer.work()
    trainer.keeper.close()
    assert trainer.engine.passes == 2, "both were replayed"
    async with trainer.async_database.connection() as connection:
        found = await read_trainer_logprobs(connection, trainer.world.team_id, [trace_id])
    (kept,) = found[trace_id].values()
    assert (kept.operation_id, kept.checkpoint_id, kept.step) == (done.id, None, 0)
    assert kept.logprobs.tolist() == [-2.5]


@pytest.mark.parametrize("logprobs", [[np.zeros(1, np.float32)], [np.zeros(1, np.float32)] * 2])
async def test_an_operation_does_not_depend_on_what_is_kept_for_looking_at(trainer: Trainer, logprobs):
    """Neither on the table, nor on an engine that told of the wrong number of trajectories."""
    trace_id = await a_rollout(trainer)
    trainer.engine.logprobs = logprobs
    with trainer.database.connection() as connection:
        connection.execute("alter table trainer_logprobs rename to aside")
        try:
            passed, step = await trainer.pass_of(1.0, trace_id=trace_id.hex), await trainer.step()
            trainer.work()
            trainer.keeper.close()
        finally:
            connection.execute("alter table aside rename to trainer_logprobs")
    assert (trainer.now(passed).state, trainer.now(step).state) == ("done", "done")
    lost = trainer.metrics.registry.get_sample_value("headway_trainer_kept_logprobs_total", {"outcome": "lost"})
    assert lost == 1


async def test_another_trainer_replays_what_no_step_consumed(trainer: Trainer):
    await trainer.pass_of(1.0)
    await trainer.step()
    await trainer.pass_of(10.0)
    trainer.work()
    expire_leases(trainer.database)
    trainer.restart(trainer.world.other_trainer_id)
    await trainer.step()
    trainer.work()
    assert trainer.engine.passes == 1, "the consumed pass is in the checkpoint, the other was replayed"
    assert trainer.served_weights() == 11.0


async def test_a_model_that_the_engine_lost_is_opened_again_and_its_passes_replayed(trainer: Trainer):
    await trainer.pass_of(1.0)
    trainer.work()
    trainer.engine.close(trainer.world.model_id)
    await trainer.pass_of(10.0)
    await trainer.step()
    trainer.work()
    assert trainer.served_weights() == 11.0


async def test_a_refused_pass_leaves_nothing_behind(trainer: Trainer):
    await trainer.pass_of(1.0)
    refused = await trainer.pass_of(-1.0)
    await trainer.step()
    trainer.work()
    row = trainer.now(refused)
    assert (row.state, row.error_code, row.error_message) == ("failed", "invalid_request", "input 0: negative")
    assert trainer.served_weights() == 1.0


async def test_a_step_leaves_out_what_nobody_acknowledged_and_applies_the_others_again(trainer: Trainer):
    first = await trainer.pass_of(1.0)
    left_out = await trainer.pass_of(10.0, with_key=False)
    await trainer.pass_of(100.0)
    step = await trainer.step()
    trainer.work()
    assert trainer.engine.passes == 3 + 2
    assert trainer.served_weights() == 101.0
    head = trainer.head()
    assert head is not None
    assert head.metrics["passes_left_out"] == 1
    assert decode(trainer.now(step).result or b"")[0]["passes_left_out"] == 1
    row = trainer.now(left_out)
    assert (row.state, row.error_code, row.consumed_by_id) == ("superseded", "unacknowledged", None)
    assert "send it again" in (row.error_message or "")
    assert trainer.now(first).consumed_by_id == step.id


async def test_what_a_refused_step_left_out_is_not_in_the_next_one_either(trainer: Trainer):
    await trainer.pass_of(10.0, with_key=False)
    refused = await trainer.step()
    trainer.work()
    assert trainer.now(refused).error_code == "nothing_accumulated"
    await trainer.pass_of(1.0)
    await trainer.step()
    trainer.work()
    assert trainer.served_weights() == 1.0


async def test_a_step_that_is_started_again_leaves_out_the_same(trainer: Trainer):
    await trainer.pass_of(1.0)
    left_out = await trainer.pass_of(10.0, with_key=False)
    trainer.work()
    step = await trainer.step()
    with trainer.database.session() as session:
        token = leases.acquire(session, trainer.world.trainer_id, trainer.world.model_id)
    assert token is not None
    with trainer.database.connection() as connection:
        assert work.start_next(connection, Lease(trainer.world.model_id, token)) is not None
    assert trainer.now(left_out).state == "superseded", "as of the start, and not only when the step commits"
    expire_leases(trainer.database)
    trainer.restart(trainer.world.other_trainer_id)
    trainer.work()
    assert trainer.now(step).state == "done"
    assert trainer.served_weights() == 1.0


async def test_a_step_without_gradients_is_refused(trainer: Trainer):
    step = await trainer.step()
    trainer.work()
    assert trainer.now(step).error_code == "nothing_accumulated"
    assert trainer.head() is None


async def test_a_step_whose_weights_are_of_no_use_moves_no_head_and_keeps_its_gradients(trainer: Trainer, monkeypatch):
    await trainer.pass_of(5.0)
    refused = await trainer.step()

    def refuse(*_: object) -> None:
        raise NonFinite("its logprobs are not finite")

    monkeypatch.setattr(trainer.engine, "snapshot", refuse)
    trainer.work()
    assert (trainer.now(refused).error_code, trainer.head()) == ("non_finite", None)
    monkeypatch.undo()
    await trainer.step()
    trainer.work()
    assert trainer.served_weights() == 5.0


async def test_after_the_head_was_moved_the_trainer_goes_on_from_there(trainer: Trainer):
    await trainer.pass_of(1.0)
    await trainer.step()
    trainer.work()
    first = trainer.head()
    assert first is not None
    await trainer.pass_of(1.0)
    await trainer.step()
    dropped = await trainer.pass_of(100.0)
    trainer.work()
    async with trainer.async_database.session() as session:
        await move_head(session, trainer.world.model_id, first.id)
    assert trainer.now(dropped).state == "superseded"
    await trainer.pass_of(7.0)
    await trainer.step()
    trainer.work()
    head = trainer.head()
    assert head is not None
    assert (head.step, head.parent_id) == (2, first.id)
    assert trainer.served_weights() == 8.0


async def test_an_operation_that_killed_its_trainer_three_times_is_given_up(trainer: Trainer):
    poison = await trainer.pass_of(1.0)
    with trainer.database.session() as session:
        session.execute(update(OperationRow).where(OperationRow.id == poison.id).values(attempts=3))
    after = await trainer.pass_of(2.0)
    trainer.work()
    row = trainer.now(poison)
    assert (row.state, row.error_code) == ("failed", "trainer_lost")
    assert "send a smaller batch" in (row.error_message or "")
    assert trainer.now(after).state == "done"


def expire_leases(database: Database) -> None:
    from datetime import timedelta

    from store.tables import ModelLeaseRow

    with database.session() as session:
        session.execute(update(ModelLeaseRow).values(expires_at=ModelLeaseRow.expires_at - timedelta(hours=1)))
