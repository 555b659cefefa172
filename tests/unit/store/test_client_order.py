"""Operations that their client numbers: carried out in that order, once, whatever arrives when."""

from __future__ import annotations

import asyncio
import random
from uuid import UUID

import pytest
from sqlalchemy import select, text

from server.background.missing_numbers import Watched
from store.database import AsyncDatabase, Database
from store.invariants import check_all
from store.oplog.append import PlacedPayload
from store.oplog.cancelling import look
from store.oplog.client_order import (
    LARGEST_NUMBER,
    append_in_order,
    give_up_missing,
    held_operations,
    operation_of_number,
)
from store.tables import ModelRow, OperationRow
from store.tree import move_head
from tests.unit.conftest import World
from tests.unit.store.test_oplog import append, finish_pass, start, take
from wire.errors import HeadwayError, InvalidRequest

NOTHING = PlacedPayload(payload=b"x", payload_blob=None)


class Client:
    def __init__(self, database: Database, async_database: AsyncDatabase, world: World) -> None:
        self.database, self.async_database, self.world = database, async_database, world

    async def send(
        self, number: int, kind: str = "forward_backward", refusal: HeadwayError | None = None
    ) -> UUID | None:
        async with self.async_database.connection() as connection:
            return await append_in_order(
                connection,
                model_id=self.world.model_id,
                client_sequence=number,
                kind=kind,
                request_digest=str(number).encode(),
                placed=NOTHING,
                num_tokens=1,
                refusal=refusal,
            )

    async def give_up(self, after_s: float) -> int:
        async with self.async_database.connection() as connection:
            return await give_up_missing(connection, after_s, await held_operations(connection))

    def log(self) -> list[tuple[int | None, int | None, str]]:
        with self.database.session() as session:
            rows = session.scalars(select(OperationRow).order_by(OperationRow.client_sequence)).all()
            assert check_all(session) == []
            return [(row.client_sequence, row.sequence, row.state) for row in rows]

    def reasons(self) -> list[str | None]:
        with self.database.session() as session:
            query = select(OperationRow.error_message).where(OperationRow.state == "failed")
            return list(session.scalars(query.order_by(OperationRow.client_sequence)))

    def age(self, number: int, by_s: float) -> None:
        with self.database.session() as session:
            query = (
                "update operations set created_at = created_at - make_interval(secs => :s) where client_sequence = :n"
            )
            session.execute(text(query), {"s": by_s, "n": number})


@pytest.fixture
def client(database: Database, async_database: AsyncDatabase, world: World) -> Client:
    return Client(database, async_database, world)


async def test_what_arrives_early_waits_for_its_turn(client: Client, database: Database, world: World):
    ids = {number: await client.send(number) for number in (3, 2, 5)}
    assert client.log() == [(2, None, "held"), (3, None, "held"), (5, None, "held")]
    ids[1] = await client.send(1)
    assert client.log() == [(1, 1, "queued"), (2, 2, "queued"), (3, 3, "queued"), (5, None, "held")]
    lease = take(database, world)
    assert [finish_pass(database, lease).id for _ in range(3)] == [ids[1], ids[2], ids[3]]


async def test_a_number_is_used_once(client: Client):
    first = await client.send(1)
    assert await client.send(1) is None
    async with client.async_database.connection() as connection:
        found = await operation_of_number(connection, client.world.model_id, 1)
    assert found is not None
    assert (found.id, found.request_digest) == (first, b"1")
    with client.database.session() as session:
        assert session.scalar(text("select num_tokens from training_usage")) == 1


async def test_numbers_that_arrive_at_once_in_any_order_are_all_queued_in_their_order(client: Client):
    numbers = [*range(1, 41), *range(1, 41)]
    random.Random(7).shuffle(numbers)
    ids = await asyncio.gather(*(client.send(number) for number in numbers))
    assert len([id_ for id_ in ids if id_ is not None]) == 40
    assert client.log() == [(number, number, "queued") for number in range(1, 41)]


async def test_a_refused_request_uses_its_number_up(client: Client):
    await client.send(3)
    await client.send(2, refusal=InvalidRequest("input 0: no tokens"))
    await client.send(1)
    assert client.log() == [(1, 1, "queued"), (2, None, "failed"), (3, 2, "queued")]
    assert client.reasons() == ["input 0: no tokens"]


async def test_what_waited_too_long_for_a_number_fails_and_the_next_goes_on(client: Client):
    for number in (1, 3, 5, 6):
        await client.send(number)
    client.age(3, 700)
    assert await client.give_up(600) == 1
    assert client.log() == [(1, 1, "queued"), (3, None, "failed"), (5, None, "held"), (6, None, "held")]
    assert client.reasons() == [
        "request 2 of this client did not arrive within 600 s, so this one, number 3, was not carried out; those "
        "behind it go on"
    ]
    await client.send(4)
    assert client.log()[2:] == [(4, 2, "queued"), (5, 3, "queued"), (6, 4, "queued")]
    assert await client.give_up(600) == 0


async def test_a_clock_that_is_set_forward_gives_up_nothing_that_was_not_watched_for_long(client: Client):
    await client.send(2)
    seconds = 0.0
    held = Watched(300, lambda: seconds)
    async with client.async_database.connection() as connection:
        held.see(await held_operations(connection))
        client.age(2, 3600)
        seconds = 299.0
        held.see(await held_operations(connection))
        assert await give_up_missing(connection, 600, held.for_long()) == 0
        seconds = 300.0
        held.see(await held_operations(connection))
        assert await give_up_missing(connection, 600, held.for_long()) == 1


async def test_a_clock_that_is_set_back_does_not_make_what_is_held_wait_for_it(client: Client):
    await client.send(2)
    client.age(2, -3600)
    assert await client.give_up(600) == 1


async def test_the_largest_number_that_is_taken_can_be_given_up(client: Client):
    await client.send(LARGEST_NUMBER)
    client.age(LARGEST_NUMBER, 700)
    assert await client.give_up(600) == 1
    assert client.log() == [(LARGEST_NUMBER, None, "failed")]


async def test_a_number_that_comes_after_it_was_given_up_fails(client: Client):
    await client.send(2)
    client.age(2, 700)
    await client.give_up(600)
    assert await client.send(1) is not None
    assert client.log() == [(1, None, "failed"), (2, None, "failed")]
    await client.send(3)
    assert client.log()[2] == (3, 1, "queued")


async def test_numbers_and_other_calls_share_one_log(client: Client, async_database: AsyncDatabase, world: World):
    await client.send(2)
    await append(async_database, world)
    await client.send(1)
    await append(async_database, world)
    assert client.log() == [(1, 2, "queued"), (2, 3, "queued"), (None, 1, "queued"), (None, 4, "queued")]


async def test_a_head_that_is_moved_drops_what_is_held_as_well(client: Client, async_database: AsyncDatabase):
    await client.send(2)
    async with async_database.session() as session:
        await move_head(session, client.world.model_id, None)
    await client.send(1)
    await client.send(3)
    assert client.log() == [(1, 1, "queued"), (2, None, "superseded"), (3, 2, "queued")]


async def test_a_numbered_gradient_counts_though_nobody_waits_for_its_answer(
    client: Client, async_database: AsyncDatabase, database: Database, world: World
):
    await client.send(1)
    lease = take(database, world)
    with database.connection() as connection:
        operation, _ = start(database, lease)
        assert not look(connection, lease, operation).is_unacknowledged
        connection.execute("update operations set state = 'queued' where id = %s", [operation.id])
    finish_pass(database, lease)
    await append(async_database, world, "optim_step")
    start(database, lease)
    assert client.log()[0] == (1, 1, "done")


async def test_a_model_that_is_not_there_takes_nothing(client: Client, database: Database):
    with database.session() as session:
        session.execute(text("delete from model_leases"))
        assert session.get(ModelRow, client.world.team_id) is None
    async with client.async_database.connection() as connection:
        missing = await append_in_order(
            connection,
            model_id=client.world.team_id,
            client_sequence=1,
            kind="forward",
            request_digest=b"",
            placed=NOTHING,
        )
    assert missing is None
