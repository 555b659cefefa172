"""An operation ends only in what its request deserves; a trouble that passes leaves it queued, with the reason."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import update

from store.database import AsyncDatabase, Database
from store.invariants import check_all
from store.oplog import work
from store.oplog.deferring import defer
from store.oplog.results import wait_for_result
from store.oplog.scheduling import MAX_PAUSE_S
from store.tables import OperationRow
from store.tree import move_head
from tests.unit.conftest import World, looking_after_calls
from tests.unit.planes.test_worker import CountingEngine, Trainer
from tests.unit.store.test_oplog import append, start, take
from wire.errors import (
    A_FEW,
    CorruptCheckpoint,
    DeviceLost,
    OutOfMemory,
    RanksLost,
    SpillLost,
    Unavailable,
)


@pytest.fixture
def trainer(database: Database, async_database: AsyncDatabase, world: World, tmp_path: Path) -> Trainer:
    return Trainer(database, async_database, world, tmp_path)


def in_trouble(trainer: Trainer, error: Exception) -> Callable[[], None]:
    """Every pass and save meets the error, until the function that is returned is called."""
    real = CountingEngine.forward_backward, CountingEngine.snapshot

    def fails(*_: object) -> Any:
        raise error

    trainer.engine.forward_backward = trainer.engine.snapshot = fails  # type: ignore[method-assign]

    def mend() -> None:
        trainer.engine.forward_backward = real[0].__get__(trainer.engine)  # type: ignore[method-assign]
        trainer.engine.snapshot = real[1].__get__(trainer.engine)  # type: ignore[method-assign]

    return mend


def try_again(trainer: Trainer) -> None:
    """As when the pause is over."""
    with trainer.database.session() as session:
        session.execute(update(OperationRow).values(retry_at=None))
    trainer.work()


TROUBLES: dict[str, Exception] = {
    "a full disk": OSError(errno.ENOSPC, "No space left on device"),
    "a read-only disk": OSError(errno.EROFS, "Read-only file system"),
    "an object store that is away": Unavailable("the object store does not answer"),
    "a database with a full disk": psycopg.errors.DiskFull("could not extend file"),
    "files that are gone": CorruptCheckpoint("adapter_model.safetensors cannot be read"),
    "a spill file that is gone": SpillLost("it did not come back"),
}


@pytest.mark.parametrize("name", TROUBLES)
@pytest.mark.parametrize("kind", ["forward_backward", "optim_step"])
async def test_an_operation_outlasts_a_trouble_and_is_then_carried_out_once(kind: str, name: str, trainer: Trainer):
    if kind == "optim_step":
        await trainer.pass_of(5.0)
        trainer.work()
    mend = in_trouble(trainer, TROUBLES[name])
    asked = await (trainer.step() if kind == "optim_step" else trainer.pass_of(5.0))
    behind = await trainer.pass_of(7.0)
    trainer.work()
    for _ in range(2 * A_FEW):
        try_again(trainer)
    row = trainer.now(asked)
    assert (row.state, row.error_code, row.attempts, row.faults) == ("queued", None, 0, 0)
    assert row.deferrals == 2 * A_FEW + 1
    assert row.retry_reason
    assert trainer.now(behind).state == "queued", "it waits for its turn"
    mend()
    try_again(trainer)
    assert (trainer.now(asked).state, trainer.now(behind).state) == ("done", "done")
    await trainer.step()
    trainer.work()
    assert trainer.served_weights() == 12.0
    with trainer.database.session() as session:
        assert check_all(session) == []


FAULTS: dict[str, tuple[Exception, str, int]] = {
    "a bug": (RuntimeError("boom"), "internal", A_FEW),
    "no memory": (MemoryError(), "out_of_memory", OutOfMemory.tries),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_of_ours_is_tried_a_few_times_and_is_then_the_end(name: str, trainer: Trainer):
    error, code, tries = FAULTS[name]
    in_trouble(trainer, error)
    asked = await trainer.pass_of(1.0)
    trainer.work()
    for count in range(1, tries):
        assert (trainer.now(asked).state, trainer.now(asked).faults) == ("queued", count)
        try_again(trainer)
    assert (trainer.now(asked).state, trainer.now(asked).error_code) == ("failed", code)
    with trainer.database.session() as session:
        session.execute(update(OperationRow).values(request_digest=b"of this version"))
    with trainer.database.session() as session:
        assert check_all(session) == []


async def test_a_fault_that_does_not_come_again_is_none(trainer: Trainer):
    mend = in_trouble(trainer, RuntimeError("boom"))
    asked = await trainer.pass_of(1.0)
    trainer.work()
    mend()
    try_again(trainer)
    assert trainer.now(asked).state == "done"


async def test_a_lost_device_ends_the_trainer_and_leaves_the_operation_to_another(trainer: Trainer):
    trainer.worker._diagnose = lambda error: DeviceLost("an uncorrectable error") if error.args == ("ecc",) else None
    in_trouble(trainer, RuntimeError("ecc"))
    asked = await trainer.pass_of(1.0)
    with pytest.raises(DeviceLost):
        trainer.work()
    assert (trainer.now(asked).state, trainer.now(asked).faults) == ("queued", 1)
    trainer.restart(trainer.world.trainer_id)
    try_again(trainer)
    assert trainer.now(asked).state == "done"


async def test_other_ranks_may_be_lost_more_often_than_a_device(trainer: Trainer):
    """Their hosts are taken away without anybody's fault; an operation of which they die ends, too."""
    asked = await trainer.pass_of(1.0)
    for count in range(1, RanksLost.tries + 1):
        in_trouble(trainer, RanksLost("a rank of this trainer is gone"))
        with pytest.raises(RanksLost):
            try_again(trainer)
        assert trainer.now(asked).faults == min(count, RanksLost.tries - 1)
        assert trainer.now(asked).attempts <= 1, "this process has not died"
        trainer.restart(trainer.world.trainer_id)
    assert (trainer.now(asked).state, trainer.now(asked).error_code) == ("failed", "ranks_lost")


async def test_the_pause_doubles_up_to_half_a_minute(trainer: Trainer):
    in_trouble(trainer, TROUBLES["a full disk"])
    asked = await trainer.pass_of(1.0)
    trainer.work()
    pauses = list[float]()
    for _ in range(7):
        with trainer.database.connection() as connection:
            query = b"select extract(epoch from retry_at - clock_timestamp())::float8 as s from operations"
            pauses.append(round(connection.execute(query).fetchone().s + 0.4))
        assert trainer.worker.work_once() is False, "not before"
        try_again(trainer)
    assert pauses == [1, 2, 4, 8, 16, MAX_PAUSE_S, MAX_PAUSE_S]
    assert "No space left on device" in (trainer.now(asked).retry_reason or "")


async def test_a_model_in_trouble_holds_no_other_up(trainer: Trainer):
    mend = in_trouble(trainer, TROUBLES["a full disk"])
    held_up = await trainer.pass_of(1.0)
    trainer.work()
    mend()
    other = trainer.another_model()
    free = await trainer.pass_of(2.0, model_id=other)
    trainer.work()
    assert (trainer.now(held_up).state, trainer.now(free).state) == ("queued", "done")


async def test_set_head_supersedes_what_waits_for_a_trouble(trainer: Trainer):
    await trainer.pass_of(1.0)
    trainer.work()
    in_trouble(trainer, TROUBLES["a full disk"])
    step = await trainer.step()
    trainer.work()
    async with trainer.async_database.session() as session:
        await move_head(session, trainer.world.model_id, None)
    assert (trainer.now(step).state, trainer.now(step).error_code) == ("superseded", "superseded")
    with trainer.database.session() as session:
        assert check_all(session) == []


async def test_a_database_that_takes_no_writes_does_not_count_as_a_death_of_the_trainer(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object, **__: object) -> None:
        raise psycopg.errors.DiskFull("could not extend file")

    await trainer.pass_of(5.0)
    trainer.work()
    step = await trainer.step()
    with monkeypatch.context() as patched:
        patched.setattr(work, "commit_step", full)
        patched.setattr("trainer.worker.loop.defer", full)
        for _ in range(2 * A_FEW):
            with pytest.raises(psycopg.errors.DiskFull):
                trainer.work()
            trainer.worker._models.forget_all()
    trainer.work()
    assert trainer.now(step).state == "done"
    assert trainer.served_weights() == 5.0


async def test_a_trouble_that_were_stored_as_an_end_is_refused_and_noticed(
    database: Database, async_database: AsyncDatabase, world: World
):
    await append(async_database, world, request_digest=b"of this version", idempotency_key="k")
    lease = take(database, world)
    operation, _ = start(database, lease)
    with database.connection() as connection, pytest.raises(AssertionError, match="no end"):
        work.fail(connection, lease, operation, Unavailable("the disk is full"))
    with database.session() as session:
        values = {
            "state": "failed",
            "error_code": "unavailable",
            "error_message": "x",
            "finished_at": OperationRow.created_at,
        }
        session.execute(update(OperationRow).values(**values))
    with database.session() as session:
        assert [violation.name for violation in check_all(session)] == ["operations end in what their request deserves"]


async def test_a_caller_hears_of_the_trouble_after_a_while_and_when_to_come_again(
    database: Database, async_database: AsyncDatabase, world: World
):
    own, behind = await append(async_database, world), await append(async_database, world)
    lease = take(database, world)
    operation, _ = start(database, lease)
    with database.connection() as connection:
        defer(connection, lease, operation, Unavailable("the trainer cannot use its storage (No space left on device)"))
    for waiting, whose in ((own, "the forward_backward"), (behind, "a forward_backward before it")):
        async with looking_after_calls(async_database, trouble_s=0.2) as calls:
            with pytest.raises(Unavailable) as refused:
                await wait_for_result(async_database, calls, None, waiting.id, 30.0)  # type: ignore[arg-type]
        assert refused.value.message.startswith(
            f"the trainer cannot use its storage (No space left on device); {whose} stays queued and is tried again in"
        )
        assert "send the same call again" in refused.value.message
        assert 1 <= (refused.value.retry_after_s or 0) <= 2


async def test_a_caller_hears_of_a_database_that_stays_away(
    async_database: AsyncDatabase, world: World, monkeypatch: pytest.MonkeyPatch
):
    asked = await append(async_database, world)

    @asynccontextmanager
    async def away(*_: object) -> AsyncIterator[Any]:
        raise psycopg.OperationalError("the connection was lost")
        yield

    monkeypatch.setattr(async_database, "connection", away)
    async with looking_after_calls(async_database, trouble_s=0.2) as calls:
        with pytest.raises(Unavailable, match="the database does not answer") as refused:
            await wait_for_result(async_database, calls, None, asked.id, 30.0)  # type: ignore[arg-type]
    assert refused.value.retry_after_s
