"""Who counts as waiting, and what a step leaves out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import func, update

from store.database import AsyncDatabase, Database
from store.notify import AsyncListener
from store.oplog import work
from store.oplog.lost_answers import abandon, adopt
from store.planes.presence import PRESENT
from store.tables import OperationRow
from tests.unit.conftest import World
from tests.unit.store.test_oplog import append, finish_pass, start, state_of, take
from tests.unit.store.test_oplog_races import while_locked

BODY = b"the same"


@asynccontextmanager
async def server(database: Database, url: str) -> AsyncIterator[AsyncListener]:
    """A server process as far as others see it: there until the block ends."""
    listener = AsyncListener(url)
    await listener.start()
    await until_present(database, listener.presence.number, is_there=True)
    yield listener
    await listener.close()
    await until_present(database, listener.presence.number, is_there=False)


async def until_present(database: Database, number: int, *, is_there: bool) -> None:
    while (number in present(database)) != is_there:  # noqa: ASYNC110 - PostgreSQL offers no event
        await asyncio.sleep(0.01)


def present(database: Database) -> list[int]:
    with database.connection() as connection:
        (row,) = connection.execute(f"select {PRESENT} as numbers".encode())
    return row.numbers


async def applied_by_a_step(async_database: AsyncDatabase, database: Database, world: World) -> list[UUID]:
    """Carry out the one pass that waits, start an optim_step, and say what it will apply."""
    lease = take(database, world)
    finish_pass(database, lease)
    await append(async_database, world, "optim_step")
    start(database, lease)
    with database.connection() as connection:
        return [operation.id for operation in work.pending_gradients(connection, world.model_id)]


async def test_a_pass_whose_caller_still_waits_is_applied(
    async_database: AsyncDatabase, database: Database, world: World, postgres_url: str
):
    async with server(database, postgres_url) as listener:
        waiting = await append(async_database, world, caller=listener.presence.new_call())
        assert await applied_by_a_step(async_database, database, world) == [waiting.id]


async def test_a_pass_whose_server_died_is_left_out(
    async_database: AsyncDatabase, database: Database, world: World, postgres_url: str
):
    async with server(database, postgres_url) as listener:
        lost = await append(async_database, world, caller=listener.presence.new_call())
    async with server(database, postgres_url):
        assert await applied_by_a_step(async_database, database, world) == []
    assert state_of(database, lost) == "superseded"


async def test_a_pass_whose_caller_is_gone_is_left_out_although_its_server_lives(
    async_database: AsyncDatabase, database: Database, world: World, postgres_url: str
):
    async with server(database, postgres_url) as listener:
        caller = listener.presence.new_call()
        lost = await append(async_database, world, caller=caller)
        await abandon(async_database, lost.id, caller)
        assert await applied_by_a_step(async_database, database, world) == []


async def test_a_pass_that_was_answered_is_applied_although_its_server_died(
    async_database: AsyncDatabase, database: Database, world: World
):
    answered = await append(async_database, world, caller=1 << 32)
    with database.session() as session:
        session.execute(update(OperationRow).values(answered_at=func.clock_timestamp()))
    assert await applied_by_a_step(async_database, database, world) == [answered.id]


async def test_who_takes_a_pass_over_waits_for_it(
    async_database: AsyncDatabase, database: Database, world: World, postgres_url: str
):
    lost = await append(async_database, world, request_digest=BODY)
    async with server(database, postgres_url) as listener, async_database.connection() as connection:
        caller = listener.presence.new_call()
        assert await adopt(connection, world.model_id, BODY, caller) == lost.id
        assert await adopt(connection, world.model_id, b"another", caller) is None
        assert await applied_by_a_step(async_database, database, world) == [lost.id]


async def test_a_step_that_was_about_to_leave_out_an_answered_pass_looks_again(
    async_database: AsyncDatabase, database: Database, world: World
):
    answered = await append(async_database, world, caller=1 << 32)
    lease = take(database, world)
    finish_pass(database, lease)
    await append(async_database, world, "optim_step")

    def answer(session: Any) -> None:
        mine = OperationRow.id == answered.id
        session.execute(update(OperationRow).where(mine).values(answered_at=func.clock_timestamp()))

    while_locked(database, answer, lambda connection: work.start_next(connection, lease))
    assert state_of(database, answered) == "done"


async def test_a_pass_that_is_left_out_meanwhile_is_not_taken_over(
    async_database: AsyncDatabase, database: Database, world: World
):
    lost = await append(async_database, world, request_digest=BODY)
    async with async_database.connection() as connection:
        with database.session() as session:
            session.execute(update(OperationRow).values(state="superseded"))
            session.flush()
            adopting = asyncio.create_task(adopt(connection, world.model_id, BODY, 1))
            await asyncio.sleep(0.3)
            assert not adopting.done(), "it waits for the lock"
        assert await adopting is None
    assert state_of(database, lost) == "superseded"
