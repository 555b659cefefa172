"""Calls that their client numbers: one number is one operation, however often and at whatever time it is sent."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server.training.operations import Call, Prepared
from server.training.sequenced import refuse_in_order, submit_in_order
from store.blob_stores.file import FileBlobStore
from store.database import AsyncDatabase, Database
from store.oplog.results import wait_for_result
from store.oplog.waiting import WaitingCalls
from store.tables import OperationRow
from tests.unit.conftest import World
from tests.unit.store.test_oplog import finish_pass, take
from wire.errors import Conflict, HeadwayError, InvalidRequest, NumberReused, TimedOut, Unavailable
from wire.payload import encode

Training = Any


@pytest.fixture
def training(async_database: AsyncDatabase, tmp_path: Path) -> Training:
    return SimpleNamespace(database=async_database, blobs=FileBlobStore(tmp_path))


@pytest.fixture
def model(world: World) -> Any:
    return SimpleNamespace(id=world.model_id, refusal=None)


def call(content: str = "a", error: HeadwayError | None = None, size: int = 10) -> Call:
    async def prepare() -> Prepared:
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return Prepared(encode({"said": content * size}), 1)

    return Call("forward_backward", content.encode(), prepare)


async def test_one_number_is_one_operation_also_when_it_is_sent_at_once_and_after_it_ended(
    training: Training, model: Any, database: Database, world: World
):
    ids = await asyncio.gather(*(submit_in_order(training, model, 1, call(size=100_000)) for _ in range(8)))
    assert len(set(ids)) == 1
    assert finish_pass(database, take(database, world)).id == ids[0]
    assert await submit_in_order(training, model, 1, call(error=InvalidRequest("not looked at again"))) == ids[0]


async def test_a_used_number_takes_no_other_request(training: Training, model: Any):
    await submit_in_order(training, model, 1, call("a"))
    for number, refused in ((1, NumberReused), (0, InvalidRequest), (-1, InvalidRequest)):
        with pytest.raises(refused) as error:
            await submit_in_order(training, model, number, call("b"))
        assert str(number) in error.value.message


async def test_what_a_request_makes_impossible_fails_its_operation_and_the_next_goes_on(
    training: Training, model: Any, database: Database, world: World, waiting_calls: WaitingCalls
):
    bad = call("bad", InvalidRequest("input 0: no tokens"))
    first, again = [await submit_in_order(training, model, 1, bad) for _ in range(2)]
    early = await refuse_in_order(
        training, model, 2, "save_checkpoint", b"", InvalidRequest("a name may not have a slash")
    )
    assert again == first
    for refused, reason in ((first, "no tokens"), (early, "a slash")):
        with pytest.raises(InvalidRequest, match=reason):
            await wait_for_result(training.database, waiting_calls, training.blobs, refused, 1.0)
    good = await submit_in_order(training, model, 3, call("good"))
    assert finish_pass(database, take(database, world)).id == good


async def test_a_model_that_is_paused_fails_what_is_new_and_answers_what_is_known(
    training: Training, model: Any, database: Database
):
    known = await submit_in_order(training, model, 1, call())
    model.refusal = Conflict("training is paused")
    assert await submit_in_order(training, model, 1, call()) == known
    refused = await submit_in_order(training, model, 2, call())
    with database.session() as session:
        row = session.get_one(OperationRow, refused)
        assert (row.state, row.error_code, row.error_message) == ("failed", "conflict", "training is paused")


async def test_a_trouble_that_passes_uses_no_number_up(training: Training, model: Any):
    with pytest.raises(Unavailable):
        await submit_in_order(training, model, 1, call("a", Unavailable("the disk is full")))
    await submit_in_order(training, model, 1, call("a"))


async def test_who_waits_for_one_that_is_held_learns_what_it_waits_for(
    training: Training, model: Any, waiting_calls: WaitingCalls
):
    held = await submit_in_order(training, model, 2, call())
    with pytest.raises(TimedOut, match="lower number has not arrived"):
        await wait_for_result(training.database, waiting_calls, training.blobs, held, 0.2)
