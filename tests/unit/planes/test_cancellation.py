"""Operations that cannot count any more end between two micro-batches; the engine's micro-batches are the test's."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from sqlalchemy import update

from store.database import AsyncDatabase, Database
from store.oplog.append import Appended, append_operation
from store.tables import ModelLeaseRow, ModelRow, OperationRow
from store.tree import move_head
from tests.unit.conftest import World
from tests.unit.planes.test_worker import TURN, CountingEngine, Trainer
from trainer.worker.cancellation import Cancellation
from trainer.worker.loop import WorkerSettings
from wire.conversion import to_datums
from wire.datum_payload import encode_datums
from wire.engine import DatumTensors
from wire.errors import Interrupted
from wire.trajectories import Batch, Trajectory

NUM_MICRO_BATCHES = 3


class MicroBatches(CountingEngine):
    """Asks whether to go on before each of them, as the real one does; `before` happens just before it asks."""

    def __init__(self) -> None:
        super().__init__()
        self.check: Callable[[], None] = lambda: None
        self.before: Callable[[int], None] = lambda number: None
        self.num_opened = 0
        self.done: list[float] = []

    def open(self, *args) -> None:
        self.num_opened += 1
        super().open(*args)

    def forward_backward(self, model, datums, loss, plan=None, pictures=()):
        self._compute()
        self.done.append(datums[0].origin.reward)
        return super().forward_backward(model, datums, loss, plan, pictures)

    def forward(self, model, datums, plan=None, pictures=()):
        self._compute()
        one = np.zeros(1, np.float32)
        return [DatumTensors(0, 0.0, one, one, one)]

    def _compute(self) -> None:
        for number in range(NUM_MICRO_BATCHES):
            self.before(number)
            self.check()


class LookingTrainer(Trainer):
    """Looks before each micro-batch."""

    engine: MicroBatches
    grace_s = 0.0
    answer_within_s = 5.0
    interrupted = False

    def make_engine(self) -> MicroBatches:
        return MicroBatches()

    def cancellation(self, settings: WorkerSettings) -> Cancellation:
        cancellation = Cancellation(
            self.database,
            settings.base_id,
            settings.trainer_id,
            self._check,
            look_every_s=0,
            grace_s=self.grace_s,
            answer_within_s=self.answer_within_s,
        )
        self.engine.check = cancellation.check
        return cancellation

    def _check(self) -> None:
        if self.interrupted:
            raise Interrupted("stop")

    async def work_while(self, happens: Callable[[], Awaitable[object]] | None = None) -> None:
        """Work everything off; what `happens` does so before the second micro-batch of the first operation."""
        loop, things = asyncio.get_running_loop(), [happens] if happens else []

        def before(number: int) -> None:
            if number == 1 and things:
                asyncio.run_coroutine_threadsafe(_awaited(things.pop()), loop).result()

        self.engine.before = before
        await asyncio.to_thread(self.work)

    async def forward(self, *, with_key: bool) -> Appended:
        payload = encode_datums(to_datums(Batch([Trajectory((TURN,), 0.0)])), {})
        return await self.ask("forward", payload, with_key=with_key)

    async def others_pass(self, reward: float, *, with_key: bool = True) -> Appended:
        """Of another model of the base."""
        with self.database.session() as session:
            model = ModelRow(team_id=self.world.team_id, base_id=self.world.base_id, slug="other", name="o", lora={})
            session.add(model)
            session.flush()
            model_id = model.id
        call = {"loss_fn": "ppo", "loss_fn_config": {}, "num_substeps": 1}
        payload = encode_datums(to_datums(Batch([Trajectory((TURN,), reward)])), call)
        values = {"kind": "forward_backward", "idempotency_key": uuid.uuid4().hex if with_key else None}
        async with self.async_database.connection() as connection:
            return await append_operation(connection, model_id=model_id, payload=payload, **values)

    def change(self, operation: Appended, **values: object) -> None:
        with self.database.session() as session:
            session.execute(update(OperationRow).where(OperationRow.id == operation.id).values(**values))


async def _awaited(happens: Callable[[], Awaitable[object]]) -> None:
    await happens()


@pytest.fixture
def trainer(database: Database, async_database: AsyncDatabase, world: World, tmp_path: Path) -> LookingTrainer:
    return LookingTrainer(database, async_database, world, tmp_path)


async def test_a_pass_ends_when_the_head_is_moved_away_from_it(trainer: LookingTrainer):
    passed = await trainer.pass_of(1.0)

    async def move() -> None:
        async with trainer.async_database.session() as session:
            await move_head(session, trainer.world.model_id, None)

    await trainer.work_while(move)
    assert trainer.engine.passes == 0
    assert (trainer.now(passed).state, trainer.now(passed).error_code) == ("superseded", "superseded")
    await trainer.pass_of(2.0)
    await trainer.step()
    await trainer.work_while()
    assert trainer.served_weights() == 2.0


async def test_a_pass_that_the_waiting_step_leaves_out_is_not_computed_and_the_engine_goes_on_as_it_was(
    trainer: LookingTrainer,
):
    await trainer.pass_of(1.0)
    lost = await trainer.pass_of(10.0, with_key=False)
    await trainer.pass_of(100.0)
    step = await trainer.step()
    await trainer.work_while()
    row = trainer.now(lost)
    assert (row.state, row.error_code) == ("superseded", "unacknowledged")
    assert "send it again" in (row.error_message or "")
    assert trainer.now(step).state == "done"
    assert trainer.served_weights() == 101.0
    assert trainer.engine.done == [1.0, 100.0]
    assert trainer.engine.num_opened == 1, "no weights were loaded, and no gradients replayed"


async def test_a_forward_for_whose_answer_nobody_waits_ends_for_good(trainer: LookingTrainer):
    lost, asked = await trainer.forward(with_key=False), await trainer.forward(with_key=True)
    await trainer.work_while()
    assert (trainer.now(lost).state, trainer.now(asked).state) == ("superseded", "done")


async def test_a_pass_that_nobody_waits_for_makes_room_for_others_and_is_done_after_them(trainer: LookingTrainer):
    passed = await trainer.pass_of(1.0, with_key=False)
    await trainer.work_while(lambda: trainer.others_pass(2.0))
    assert trainer.engine.done == [2.0, 1.0]
    row = trainer.now(passed)
    assert (row.state, row.attempts) == ("done", 1), "what was put back does not count as an attempt"


async def test_a_pass_that_nobody_waits_for_goes_on_while_nobody_else_waits(trainer: LookingTrainer):
    passed = await trainer.pass_of(1.0, with_key=False)
    await trainer.work_while(lambda: trainer.others_pass(2.0, with_key=False))
    assert trainer.engine.done == [1.0, 2.0], "nobody waits for the other one either"
    assert trainer.now(passed).state == "done"


async def test_a_caller_who_comes_back_in_time_finds_the_pass_going_on(trainer: LookingTrainer):
    trainer.grace_s = 60.0
    trainer.restart(trainer.world.trainer_id)
    await trainer.pass_of(1.0, with_key=False)
    await trainer.work_while(lambda: trainer.others_pass(2.0))
    assert trainer.engine.done == [1.0, 2.0]


@pytest.mark.parametrize("kind", ["a step waits", "others wait"])
async def test_a_pass_that_somebody_has_come_to_wait_for_goes_on(trainer: LookingTrainer, kind: str):
    passed = await trainer.pass_of(1.0, with_key=False)

    async def somebody_comes() -> None:
        await (trainer.step() if kind == "a step waits" else trainer.others_pass(2.0))
        trainer.change(passed, idempotency_key="mine")

    await trainer.work_while(somebody_comes)
    assert trainer.engine.done[0] == 1.0
    assert trainer.now(passed).state == "done"


async def test_a_pass_ends_when_another_trainer_has_its_model(trainer: LookingTrainer):
    await trainer.pass_of(1.0)

    async def take_over() -> None:
        with trainer.database.session() as session:
            taken = {"token": ModelLeaseRow.token + 1000, "trainer_id": trainer.world.other_trainer_id}
            session.execute(update(ModelLeaseRow).values(**taken))

    await trainer.work_while(take_over)
    assert trainer.engine.passes == 0


async def test_a_pass_goes_on_while_the_database_is_away(trainer: LookingTrainer, monkeypatch):
    passed = await trainer.pass_of(1.0)

    def away(*_: object) -> None:
        raise psycopg.OperationalError("the server closed the connection")

    monkeypatch.setattr("store.oplog.cancelling.look", away)
    await trainer.work_while()
    assert trainer.now(passed).state == "done"


@pytest.fixture
def locked(postgres_url: str) -> Iterator[psycopg.Connection]:
    """Holds whoever looks up, once it has the lock, until its transaction ends."""
    with psycopg.connect(postgres_url) as connection:
        yield connection


@pytest.mark.parametrize("is_lost", [False, True], ids=["still ours", "lost meanwhile"])
async def test_a_database_that_does_not_answer_holds_no_pass_up_and_is_heard_when_it_does(
    trainer: LookingTrainer, locked: psycopg.Connection, is_lost: bool
):
    trainer.answer_within_s = 0.1
    trainer.restart(trainer.world.trainer_id)
    passed, began = await trainer.pass_of(1.0), list[float]()

    def before(number: int) -> None:
        began.append(time.monotonic())
        if number == 0:
            locked.execute("lock table operations in access exclusive mode")
        elif number == 1 and is_lost:
            locked.execute("update model_leases set token = token + 1000")
        if number == 1:
            locked.commit()
            time.sleep(0.2)  # for the answer to the first question

    trainer.engine.before = before
    await asyncio.to_thread(trainer.worker.work_once)
    locked.rollback()
    assert 0.1 <= began[1] - began[0] < 5.0
    assert (len(began), trainer.engine.passes) == ((2, 0) if is_lost else (3, 1))
    assert trainer.now(passed).state == ("running" if is_lost else "done")


async def test_a_replay_ends_with_the_operation_that_it_is_for(trainer: LookingTrainer):
    await trainer.pass_of(1.0)
    await trainer.work_while()
    trainer.engine.close(trainer.world.model_id)
    await trainer.forward(with_key=False)
    await trainer.work_while()
    assert trainer.engine.done == [1.0]
    await trainer.step()
    await trainer.work_while()
    assert trainer.served_weights() == 1.0


async def test_looking_is_rare(trainer: LookingTrainer, monkeypatch):
    looks = 0

    def count(*_: object) -> None:
        nonlocal looks
        looks += 1

    monkeypatch.setattr("store.oplog.cancelling.look", count)
    settings = WorkerSettings(trainer.world.base_id, trainer.world.trainer_id)
    seldom = Cancellation(trainer.database, settings.base_id, settings.trainer_id, look_every_s=3600)
    with seldom.of(None, None):  # type: ignore[arg-type]
        for _ in range(1000):
            seldom.check()
    assert looks == 0


async def test_a_trainer_that_is_told_to_stop_is_interrupted_without_a_look(trainer: LookingTrainer):
    passed = await trainer.pass_of(1.0, with_key=False)
    trainer.interrupted = True
    assert await asyncio.to_thread(trainer.worker.work_once)
    assert (trainer.engine.passes, trainer.now(passed).state) == (0, "running"), "to be handed back"
