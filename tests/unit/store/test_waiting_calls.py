"""Many calls that wait for operations: woken one by one when theirs has ended, and otherwise looked after together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import pytest
from sqlalchemy import text, update

from store.blob_stores.file import FileBlobStore
from store.database import AsyncConnection, AsyncDatabase, Database
from store.oplog import waiting
from store.oplog.deferring import defer
from store.oplog.results import take_result, wait_for_result
from store.oplog.waiting import Trouble, WaitingCalls
from store.pool_queue import TooBusy
from store.tables import OperationRow
from tests.unit.conftest import World, looking_after_calls
from tests.unit.store.test_oplog import append, finish_pass, start, take
from wire.errors import Unavailable
from wire.payload import encode

NUM_CALLS = 50
RESULT = encode({"num_datums": 1})


class Statements:
    """What was asked about waiting calls: how many operations each time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self._real = waiting.troubles_and_ends
        monkeypatch.setattr(waiting, "troubles_and_ends", self._counted)

    async def _counted(self, connection: AsyncConnection, ids: set[UUID]) -> dict[UUID, Trouble | None]:
        self.sizes.append(len(ids))
        return await self._real(connection, ids)


@asynccontextmanager
async def many_calls(
    database: AsyncDatabase, calls: WaitingCalls, world: World
) -> AsyncIterator[list[asyncio.Task[object]]]:
    """Calls that wait, each for an operation of its own."""

    async def wait(operation_id: UUID) -> object:
        with calls.wait_for(operation_id) as call:
            return await take_result(database, call, None, 30.0)  # type: ignore[arg-type]

    tasks = [asyncio.create_task(wait((await append(database, world)).id)) for _ in range(NUM_CALLS)]
    await asyncio.sleep(0)
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def end_quietly(database: Database) -> None:
    """Every operation ends, and its notification is lost."""
    with database.session() as session:
        session.execute(update(OperationRow).values(state="done", result=RESULT, finished_at=OperationRow.created_at))


async def test_ends_whose_notifications_were_lost_are_found_in_one_statement(
    async_database: AsyncDatabase, database: Database, world: World, monkeypatch: pytest.MonkeyPatch
):
    statements = Statements(monkeypatch)
    async with (
        looking_after_calls(async_database, every_s=0.2) as calls,
        many_calls(async_database, calls, world) as tasks,
    ):
        while statements.sizes.count(NUM_CALLS) < 2:  # noqa: ASYNC110 - nothing has happened to anybody so far
            await asyncio.sleep(0.05)
        end_quietly(database)
        await asyncio.wait_for(asyncio.gather(*tasks), 20)
    assert all(size in (0, NUM_CALLS) for size in statements.sizes[1:3])


async def test_a_listener_that_was_away_has_all_calls_looked_after_in_one_statement(
    async_database: AsyncDatabase, database: Database, world: World, monkeypatch: pytest.MonkeyPatch
):
    statements = Statements(monkeypatch)
    async with (
        looking_after_calls(async_database, every_s=1000.0) as calls,
        many_calls(async_database, calls, world) as tasks,
    ):
        await asyncio.sleep(0.7)  # the first look is over
        end_quietly(database)
        statements.sizes.clear()
        with database.session() as session:
            session.execute(
                text(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where datname = current_database() and pid <> pg_backend_pid()"
                )
            )
        await asyncio.wait_for(asyncio.gather(*tasks), 20)
    assert statements.sizes == [NUM_CALLS]


async def test_an_end_wakes_the_call_that_waits_for_it_and_nobody_else(
    async_database: AsyncDatabase, database: Database, world: World, monkeypatch: pytest.MonkeyPatch
):
    async with (
        looking_after_calls(async_database, every_s=1000.0) as calls,
        many_calls(async_database, calls, world) as tasks,
    ):
        await asyncio.sleep(0.7)
        statements = Statements(monkeypatch)
        finish_pass(database, take(database, world))
        await asyncio.wait_for(tasks[0], 20)
        assert not any(task.done() for task in tasks[1:])
    assert statements.sizes == []


async def test_calls_that_meet_a_trouble_cost_one_statement_at_a_time(
    async_database: AsyncDatabase, database: Database, world: World, monkeypatch: pytest.MonkeyPatch
):
    async with (
        looking_after_calls(async_database, trouble_s=1.2, every_s=0.2) as calls,
        many_calls(async_database, calls, world) as tasks,
    ):
        lease = take(database, world)
        operation, _ = start(database, lease)
        statements = Statements(monkeypatch)
        with database.connection() as connection:
            defer(connection, lease, operation, Unavailable("the disk is full"))
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
    assert all(isinstance(error, Unavailable) and "the disk is full" in error.message for error in ended)
    assert len(statements.sizes) < NUM_CALLS


async def test_a_call_that_finds_no_connection_goes_on_waiting_for_its_answer(
    async_database: AsyncDatabase, database: Database, world: World, waiting_calls: WaitingCalls, tmp_path
):
    operation = await append(async_database, world)
    finish_pass(database, take(database, world))

    class Full(AsyncDatabase):
        num_refused = 0

        @asynccontextmanager
        async def connection(self) -> AsyncIterator[AsyncConnection]:
            if self.num_refused < 2:
                self.num_refused += 1
                raise TooBusy("this server has more calls at once than it can work on")
            async with super().connection() as connection:
                yield connection

    full = Full(async_database.url.render_as_string(hide_password=False))
    header, _ = await wait_for_result(full, waiting_calls, FileBlobStore(tmp_path), operation.id, 20.0)
    assert (header["num_datums"], full.num_refused) == (1, 2)
    await full.close()


async def test_looking_goes_on_after_a_fault_of_ours(
    async_database: AsyncDatabase, database: Database, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path
):
    operation = await append(async_database, world)
    real, faults = waiting.troubles_and_ends, iter([ValueError("a fault"), None])

    async def faulty(connection: AsyncConnection, ids: set[UUID]) -> dict[UUID, Trouble | None]:
        with suppress(StopIteration):
            if error := next(faults):
                raise error
        return await real(connection, ids)

    monkeypatch.setattr(waiting, "troubles_and_ends", faulty)
    async with looking_after_calls(async_database, every_s=0.1) as calls:
        with calls.wait_for(operation.id) as call:
            taking = asyncio.create_task(take_result(async_database, call, FileBlobStore(tmp_path), 20.0))
            await asyncio.sleep(0.1)
            end_quietly(database)
            header, _ = await taking
    assert header == {"num_datums": 1}
