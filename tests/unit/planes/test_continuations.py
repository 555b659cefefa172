"""What is left of an operation when the engine is done with it (files, samplers, the log) goes on while the engine
computes for other models. Nothing is lost, and nothing is different, whatever becomes of either meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
from sqlalchemy import delete, select, update

from store.database import AsyncDatabase, Database
from store.invariants import check_all
from store.notify import OPERATION_QUEUED
from store.oplog import leaving
from store.planes.adapters import forget_adapter, report_adapter
from store.planes.registration import register_sampler
from store.rollouts.trainer_logprobs import read_trainer_logprobs
from store.tables import CheckpointRow, OperationRow
from store.tree import move_head
from tests.unit.conftest import World
from tests.unit.planes.test_worker import Trainer, a_rollout, expire_leases
from trainer.worker import continuations
from trainer.worker.cancellation import Cancellation
from trainer.worker.continuations import Continuation, Continuations
from trainer.worker.loop import WorkerSettings
from wire.adapter_names import adapter_name
from wire.errors import Interrupted, LeaseLost
from wire.saves import SaveRequest, Use, encode_save

WAIT_S = 20.0


class Stop:
    """Of a worker that runs in a thread."""

    def __init__(self) -> None:
        self.requested = threading.Event()

    def is_set(self) -> bool:
        return self.requested.is_set()

    def nap(self, wait: Callable[[], object]) -> None:
        if not self.requested.is_set():
            wait()


class StoppableTrainer(Trainer):
    """Of a process that gets SIGTERM when `stopping` is set."""

    stopping = threading.Event()

    def cancellation(self, settings: WorkerSettings) -> Cancellation:
        def check() -> None:
            if self.stopping.is_set():
                raise Interrupted("the trainer is stopping")

        return Cancellation(self.database, settings.base_id, settings.trainer_id, check, look_every_s=0.2)


class Scene:
    """A trainer that runs, and a sampler that loads what it is sent."""

    def __init__(self, trainer: StoppableTrainer, sampler_id: UUID) -> None:
        self.trainer, self.sampler_id, self.other = trainer, sampler_id, trainer.another_model()
        self.first = trainer.world.model_id
        self.begin()

    def begin(self) -> None:
        self.stop, self.raised = Stop(), list[BaseException]()
        self.trainer.stopping.clear()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def end(self) -> None:
        self.stop.requested.set()
        self.trainer.stopping.set()
        self.trainer.worker._listener.wake()
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()

    def staged(self) -> list[CheckpointRow]:
        with self.trainer.database.session() as session:
            return list(session.scalars(select(CheckpointRow).where(CheckpointRow.status == "staged")))

    def wanted(self) -> UUID | None:
        """What somebody has saved for samplers."""
        with self.trainer.database.connection() as connection:
            row = connection.execute("select checkpoint_id from adapter_wants").fetchone()
        return row.checkpoint_id if row else None

    def load(self, checkpoint: Any, error: str | None = None) -> None:
        with self.trainer.database.connection() as connection:
            report_adapter(connection, self.sampler_id, adapter_name(checkpoint.id), error)

    def until(self, is_so: Callable[[], Any]) -> Any:
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            assert not self.raised, self.raised
            if found := is_so():
                return found
            time.sleep(0.01)
        raise AssertionError("it did not come to that")

    async def stepping(self, reward: float, model_id: UUID) -> Any:
        await self.trainer.pass_of(reward, model_id=model_id)
        return await self.trainer.step(model_id=model_id)

    def has_ended(self, *operations: Any) -> bool:
        return all(self.trainer.now(one).state not in ("queued", "running") for one in operations)

    def _run(self) -> None:
        try:
            self.trainer.worker.run(self.stop)
        except BaseException as error:
            self.raised.append(error)


@pytest.fixture
async def scene(
    database: Database, async_database: AsyncDatabase, world: World, tmp_path: Path
) -> AsyncIterator[Scene]:
    with database.session() as session:
        sampler_id = register_sampler(session, world.base_id, "http://127.0.0.1:1", "local")
    scene = Scene(StoppableTrainer(database, async_database, world, tmp_path), sampler_id)
    yield scene
    scene.end()
    with database.session() as session:
        assert check_all(session) == []


async def test_another_model_is_trained_while_samplers_load_a_step(scene: Scene):
    first = await scene.stepping(1.0, scene.first)
    (staged,) = scene.until(scene.staged)
    behind = await scene.trainer.pass_of(8.0)
    others = [await scene.trainer.pass_of(2.0, model_id=scene.other) for _ in range(3)]
    scene.until(lambda: scene.has_ended(*others))
    assert [scene.trainer.now(one).state for one in (first, behind)] == ["running", "queued"]
    second = await scene.trainer.step(model_id=scene.other)
    (later,) = [one for one in scene.until(lambda: len(scene.staged()) > 1 and scene.staged()) if one.id != staged.id]
    scene.load(later)
    scene.until(lambda: scene.has_ended(second))
    scene.load(staged)
    scene.until(lambda: scene.has_ended(first, behind))
    assert (scene.trainer.served_weights(), scene.trainer.served_weights(scene.other)) == (1.0, 6.0)
    last = await scene.trainer.step()
    scene.load(scene.until(scene.staged)[0])
    scene.until(lambda: scene.has_ended(last))
    assert scene.trainer.served_weights() == 9.0


async def test_another_model_is_trained_while_samplers_load_what_is_saved(scene: Scene):
    request = encode_save(SaveRequest(use=Use.SAMPLER, name="for-samplers"))
    save = await scene.trainer.ask("save_checkpoint", request)
    node_id = scene.until(scene.wanted)
    others = [await scene.trainer.pass_of(2.0, model_id=scene.other) for _ in range(2)]
    behind = await scene.trainer.pass_of(1.0)
    scene.until(lambda: scene.has_ended(*others))
    assert [scene.trainer.now(one).state for one in (save, behind)] == ["running", "queued"]
    scene.load(SimpleNamespace(id=node_id))
    scene.until(lambda: scene.has_ended(save, behind))
    assert scene.trainer.now(save).state == "done"


async def test_a_pass_is_written_down_while_the_engine_computes_for_another_model(scene: Scene, monkeypatch):
    scene.end()
    written, computed = threading.Event(), threading.Event()
    passes = scene.trainer.worker._passes
    complete, compute = passes._complete, scene.trainer.engine.forward_backward

    def complete_late(lease: Any, operation: Any, done: Any) -> None:
        if operation.model_id == scene.first:
            assert computed.wait(WAIT_S), "the other model's pass waits for this one to be written down"
        complete(lease, operation, done)
        written.set()

    def compute_and_say_so(model: UUID, *arguments: Any) -> Any:
        result = compute(model, *arguments)
        if model == scene.other:
            computed.set()
        return result

    monkeypatch.setattr(passes, "_complete", complete_late)
    monkeypatch.setattr(scene.trainer.engine, "forward_backward", compute_and_say_so)
    first = [await scene.trainer.pass_of(reward) for reward in (1.0, 4.0)]
    other = await scene.trainer.pass_of(2.0, model_id=scene.other)
    scene.begin()
    scene.until(lambda: scene.has_ended(*first, other))
    step = await scene.trainer.step()
    scene.load(scene.until(scene.staged)[0])
    scene.until(lambda: scene.has_ended(step))
    assert scene.trainer.served_weights() == 5.0


async def test_a_pass_that_cannot_be_written_down_is_computed_again(scene: Scene, monkeypatch):
    """And its gradient counts once."""
    scene.end()
    refusals = iter([OSError(28, "no space left on device")])
    complete = scene.trainer.worker._passes._complete

    def refuse_once(lease: Any, operation: Any, done: Any) -> None:
        if operation.model_id == scene.first and (refusal := next(refusals, None)) is not None:
            raise refusal
        complete(lease, operation, done)

    monkeypatch.setattr(scene.trainer.worker._passes, "_complete", refuse_once)
    first = await scene.trainer.pass_of(1.0)
    other = await scene.trainer.pass_of(2.0, model_id=scene.other)
    scene.begin()
    scene.until(lambda: scene.has_ended(first, other))
    assert (scene.trainer.now(first).state, scene.trainer.now(first).deferrals) == ("done", 1)
    step = await scene.trainer.step()
    scene.load(scene.until(scene.staged)[0])
    scene.until(lambda: scene.has_ended(step))
    assert scene.trainer.served_weights() == 1.0


@pytest.mark.parametrize("is_written", [True, False])
async def test_a_pass_during_whose_commit_the_database_goes_away_counts_once(scene: Scene, monkeypatch, is_written):
    scene.end()
    losses = iter([psycopg.OperationalError("server closed the connection unexpectedly")])
    complete = scene.trainer.worker._passes._complete

    def lose_once(lease: Any, operation: Any, done: Any) -> None:
        loss = next(losses, None) if operation.model_id == scene.first else None
        if is_written or loss is None:
            complete(lease, operation, done)
        if loss is not None:
            raise loss

    monkeypatch.setattr(scene.trainer.worker._passes, "_complete", lose_once)
    first = await scene.trainer.pass_of(1.0)
    others = [await scene.trainer.pass_of(2.0, model_id=scene.other) for _ in range(3)]
    scene.begin()
    scene.until(lambda: scene.has_ended(first, *others))
    for model_id in (scene.first, scene.other):
        step = await scene.trainer.step(model_id=model_id)
        scene.load(scene.until(scene.staged)[0])
        scene.until(lambda step=step: scene.has_ended(step))
    assert (scene.trainer.served_weights(), scene.trainer.served_weights(scene.other)) == (1.0, 6.0)


async def test_a_pass_whose_lease_is_lost_before_it_is_written_down_is_another_trainers(scene: Scene, monkeypatch):
    scene.end()
    taken, late = threading.Event(), threading.Event()
    dead = scene.trainer.worker
    complete = dead._passes._complete

    def complete_late(lease: Any, operation: Any, done: Any) -> None:
        if operation.model_id == scene.first:
            late.set()
            assert taken.wait(WAIT_S)
        complete(lease, operation, done)

    monkeypatch.setattr(dead._passes, "_complete", complete_late)
    first = await scene.trainer.pass_of(1.0)
    other = await scene.trainer.pass_of(2.0, model_id=scene.other)
    scene.begin()
    scene.until(lambda: late.is_set() and scene.has_ended(other))
    scene.stop.requested.set()
    dead._listener.wake()
    expire_leases(scene.trainer.database)
    ended = scene.thread
    scene.trainer.restart(scene.trainer.world.other_trainer_id)
    scene.begin()
    scene.until(lambda: scene.has_ended(first))
    taken.set()
    ended.join(WAIT_S)
    assert not ended.is_alive()
    assert scene.trainer.now(first).attempts == 2
    step = await scene.trainer.step()
    scene.load(scene.until(scene.staged)[0])
    scene.until(lambda: scene.has_ended(step))
    assert scene.trainer.served_weights() == 1.0


async def test_what_is_written_down_while_a_trainer_stops_is_noted_as_ever(scene: Scene, monkeypatch):
    """Its logprobs are kept, too."""
    scene.end()
    complete = scene.trainer.worker._passes._complete

    def complete_late(lease: Any, operation: Any, done: Any) -> None:
        if operation.model_id == scene.first:
            assert scene.stop.requested.wait(WAIT_S)
        complete(lease, operation, done)

    monkeypatch.setattr(scene.trainer.worker._passes, "_complete", complete_late)
    trace_id = await a_rollout(scene.trainer)
    scene.trainer.engine.logprobs = [np.array([-2.5], np.float32)]
    first = await scene.trainer.pass_of(1.0, trace_id=trace_id.hex)
    other = await scene.trainer.pass_of(2.0, model_id=scene.other)
    scene.begin()
    scene.until(lambda: scene.has_ended(other))
    scene.end()
    assert scene.trainer.now(first).state == "done"
    scene.trainer.keeper.close()
    async with scene.trainer.async_database.connection() as connection:
        found = await read_trainer_logprobs(connection, scene.trainer.world.team_id, [trace_id])
    assert [kept.operation_id for kept in found[trace_id].values()] == [first.id]


async def test_a_staged_checkpoint_that_postgresql_has_lost_is_made_again(scene: Scene):
    """Its commit did not wait for the disk."""
    step = await scene.stepping(1.0, scene.first)
    (lost,) = scene.until(scene.staged)
    with scene.trainer.database.session() as session:
        session.execute(delete(CheckpointRow).where(CheckpointRow.id == lost.id))
    scene.load(lost)
    (again,) = scene.until(scene.staged)
    assert again.id != lost.id
    with scene.trainer.database.session() as session:
        forget_adapter(session, scene.sampler_id, adapter_name(lost.id))
    scene.load(again)
    scene.until(lambda: scene.has_ended(step))
    assert (scene.trainer.served_weights(), scene.trainer.now(step).deferrals) == (1.0, 1)


async def test_no_more_are_promoted_at_once_than_may_be(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(continuations, "AT_ONCE", 1)
    await scene.stepping(1.0, scene.first)
    (staged,) = scene.until(scene.staged)
    other = await scene.trainer.pass_of(2.0, model_id=scene.other)
    await asyncio.sleep(0.3)
    assert scene.trainer.now(other).state == "queued"
    scene.load(staged)
    scene.until(lambda: scene.has_ended(other))


async def test_a_step_that_samplers_refuse_is_refused_and_takes_nothing_with_it(scene: Scene):
    refused = await scene.stepping(1.0, scene.first)
    (staged,) = scene.until(scene.staged)
    others = [await scene.trainer.pass_of(2.0, model_id=scene.other)]
    scene.until(lambda: scene.has_ended(*others))
    scene.load(staged, "no room")
    scene.until(lambda: scene.has_ended(refused))
    assert scene.trainer.now(refused).error_code == "promotion_rejected"
    again = await scene.trainer.step()
    scene.load(scene.until(scene.staged)[0])
    scene.until(lambda: scene.has_ended(again))
    assert scene.trainer.served_weights() == 1.0, "its gradient was kept"
    step = await scene.trainer.step(model_id=scene.other)
    scene.load(scene.until(scene.staged)[0])
    scene.until(lambda: scene.has_ended(step))
    assert scene.trainer.served_weights(scene.other) == 2.0


async def test_a_head_that_is_moved_supersedes_a_step_that_is_being_promoted(scene: Scene):
    step = await scene.stepping(1.0, scene.first)
    (staged,) = scene.until(scene.staged)
    async with scene.trainer.async_database.session() as session:
        await move_head(session, scene.first, None)
    scene.until(lambda: not scene.staged())
    assert scene.trainer.now(step).state == "superseded"
    scene.load(staged)
    after = await scene.stepping(4.0, scene.first)
    scene.load(scene.until(scene.staged)[0])
    scene.until(lambda: scene.has_ended(after))
    assert scene.trainer.served_weights() == 4.0


async def test_a_trainer_that_dies_loses_neither_what_it_promotes_nor_what_it_computes(scene: Scene, monkeypatch):
    first = await scene.stepping(1.0, scene.first)
    (lost,) = scene.until(scene.staged)
    computing, dies = threading.Event(), threading.Event()

    def hang(*_: Any) -> None:
        computing.set()
        dies.wait(WAIT_S)
        raise SystemExit

    monkeypatch.setattr(scene.trainer.engine, "forward_backward", hang)
    other = await scene.trainer.pass_of(2.0, model_id=scene.other)
    assert computing.wait(WAIT_S)
    dead = scene.trainer.worker
    expire_leases(scene.trainer.database)
    dies.set()
    scene.thread.join(WAIT_S)
    scene.trainer.restart(scene.trainer.world.other_trainer_id)
    scene.begin()
    (again,) = scene.until(lambda: [one for one in scene.staged() if one.id != lost.id])
    ended = scene.until(dead._continuations.collect)
    assert isinstance(ended.error, LeaseLost), "the dead one's thread goes on here, and finds that"
    scene.load(again)
    scene.until(lambda: scene.has_ended(first, other))
    second = await scene.trainer.step(model_id=scene.other)
    scene.load(scene.until(scene.staged)[0])
    scene.until(lambda: scene.has_ended(second))
    assert (scene.trainer.served_weights(), scene.trainer.served_weights(scene.other)) == (1.0, 2.0)


async def test_what_was_started_before_runs_alone(scene: Scene):
    """A trainer that dies of one operation must not count for others that it has under way as if they were the
    cause."""
    scene.end()
    suspected = await scene.stepping(1.0, scene.first)
    with scene.trainer.database.session() as session:
        session.execute(update(OperationRow).where(OperationRow.id == suspected.id).values(attempts=1))
    scene.trainer.restart(scene.trainer.world.trainer_id)
    scene.begin()
    scene.until(scene.staged)
    other = await scene.trainer.pass_of(2.0, model_id=scene.other)
    await asyncio.sleep(0.3)
    assert scene.trainer.now(other).state == "queued"
    scene.load(scene.staged()[0])
    scene.until(lambda: scene.has_ended(suspected, other))
    assert scene.trainer.now(suspected).state == "done"


async def test_a_restart_of_postgresql_is_no_death_of_an_operation_that_waits_to_run_alone(scene: Scene, monkeypatch):
    scene.end()
    suspected = await scene.stepping(1.0, scene.first)
    with scene.trainer.database.session() as session:
        session.execute(update(OperationRow).values(attempts=1))
    scene.trainer.restart(scene.trainer.world.trainer_id)
    worker, away = scene.trainer.worker, iter(range(5))
    end_continuations = worker._end_continuations

    def end_or_fail() -> None:
        if next(away, None) is not None:
            raise psycopg.OperationalError("the database is away")
        end_continuations()

    monkeypatch.setattr(worker, "_end_continuations", end_or_fail)
    for _ in range(5):
        with pytest.raises(psycopg.OperationalError):
            worker.work_once()
    scene.begin()
    scene.load(scene.until(scene.staged)[0])
    scene.until(lambda: scene.has_ended(suspected))
    assert scene.trainer.served_weights() == 1.0


async def test_a_trainer_that_always_finds_work_leaves_no_wake_up_unread(scene: Scene, monkeypatch):
    """One that nobody reads keeps all later ones in PostgreSQL's queue, which is of limited size."""
    monkeypatch.setattr(scene.trainer.worker, "_advance", lambda: time.sleep(0.01) or True)
    listener = scene.trainer.worker._listener
    listener.wake()
    with scene.trainer.database.connection() as connection:
        connection.execute(f"select count(pg_notify('{OPERATION_QUEUED}', n::text)) from generate_series(1, 20000) n")
        await asyncio.sleep(0.3)
        asked = "select wait_event from pg_stat_activity where pid = %s"
        pid = listener._connection.info.backend_pid
        scene.until(lambda: connection.execute(asked, (pid,)).fetchone().wait_event == "ClientRead")


async def test_a_trainer_that_is_stopped_hands_back_what_it_promotes(scene: Scene):
    step = await scene.stepping(1.0, scene.first)
    scene.until(scene.staged)
    scene.end()
    assert (scene.trainer.now(step).state, scene.trainer.head()) == ("running", None)
    with scene.trainer.database.connection() as connection:
        leaving.hand_back(connection, scene.trainer.world.trainer_id)
    assert (scene.trainer.now(step).state, scene.staged()) == ("queued", [])
    scene.trainer.restart(scene.trainer.world.other_trainer_id)
    scene.begin()
    scene.load(scene.until(scene.staged)[0])
    scene.until(lambda: scene.has_ended(step))
    assert scene.trainer.served_weights() == 1.0


class Weights:
    """What a snapshot holds."""


def some_continuations() -> Continuations:
    promotion = SimpleNamespace(close=lambda: None, rest_after=lambda idle_s: None)
    return Continuations(lambda: promotion, lambda: None, 60.0)


def one_of(snapshot: Any = None) -> Continuation:
    """Of a model of its own."""
    no: Any = None
    return Continuation(no, no, SimpleNamespace(id=uuid4()), lambda _: snapshot is None, lambda _: None)


def collected(continuations: Continuations) -> Any:
    while (ended := continuations.collect()) is None:
        continuations.wait(WAIT_S)
    return ended.result


def test_a_snapshot_is_let_go_of_when_its_step_has_ended():
    continuations, weights = some_continuations(), Weights()
    gone = threading.Event()
    weakref.finalize(weights, gone.set)
    continuations.begin(one_of(weights))
    del weights
    collected(continuations)
    assert gone.wait(WAIT_S)
    continuations.close(WAIT_S)


def test_a_thread_with_nothing_to_do_listens_no_more():
    rests: list[float] = []
    promotion = SimpleNamespace(close=lambda: None, rest_after=rests.append)
    continuations = Continuations(lambda: promotion, lambda: None, 60.0)
    continuations.begin(one_of())
    collected(continuations)
    until = time.monotonic() + WAIT_S
    while 0.0 not in rests and time.monotonic() < until:
        time.sleep(0.05)
    assert 0.0 in rests
    continuations.close(WAIT_S)


def test_what_finds_no_thread_is_not_under_way(monkeypatch: pytest.MonkeyPatch):
    continuations, one = some_continuations(), one_of()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            continuations.begin(one)
    assert one.model.id not in continuations
    continuations.begin(one)
    assert collected(continuations)
    continuations.close(WAIT_S)
