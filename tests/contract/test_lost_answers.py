"""Calls whose answer got lost, and what the call that follows is taken for: see docs/durability.md."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from store.database import AsyncDatabase
from store.oplog import results
from store.tables import OperationRow
from tests.contract.conftest import Team, batch, num_operations, trajectory
from tests.contract.stand_ins import StandInTrainer

OTHER = batch(trajectory(reward=3.0), trajectory(reward=0.0))


async def operations(database: AsyncDatabase, model: dict[str, Any]) -> list[OperationRow]:
    mine = select(OperationRow).where(OperationRow.model_id == uuid.UUID(model["id"])).order_by(OperationRow.sequence)
    async with database.session() as session:
        return list(await session.scalars(mine))


async def until(database: AsyncDatabase, model: dict[str, Any], condition) -> list[OperationRow]:
    while not condition(found := await operations(database, model)):  # noqa: ASYNC110 - it happens in another process
        await asyncio.sleep(0.01)
    return found


@asynccontextmanager
async def paused(trainer: StandInTrainer) -> AsyncIterator[None]:
    trainer.paused = True
    try:
        yield
    finally:
        trainer.paused = False


async def lose(team: Team, model: dict[str, Any], call: str, body: dict[str, Any], database, trainer) -> None:
    """The call is in the log, and its client gone, which the server has noticed."""
    before = len(await operations(database, model))
    async with paused(trainer):
        calling = asyncio.create_task(team.train(model["id"], call, body))
        await until(database, model, lambda found: len(found) > before)
        calling.cancel()
        await until(database, model, lambda found: found[-1].caller is None)


@pytest.mark.parametrize("is_done", [False, True])
async def test_an_identical_pass_takes_over_the_one_whose_caller_is_gone(is_done, team, model, database, trainer):
    await lose(team, model, "forward-backward", batch(), database, trainer)
    if is_done:
        await until(database, model, lambda found: found[-1].state == "done")
    reply = await team.train(model["id"], "forward-backward", batch())
    assert reply.status_code == 200, reply.text
    (operation,) = await operations(database, model)
    assert operation.answered_at is not None
    assert (await team.train(model["id"], "optim-step", {"learning_rate": 1e-3})).status_code == 200


async def test_an_identical_backward_takes_over_although_the_handle_is_used(team, model, database, trainer):
    forward = (await team.train(model["id"], "forward", batch())).json()["forward_id"]
    body = {"forward_id": forward, "weights": [[0, 1, 1], [0, 1, 1]]}
    await lose(team, model, "backward", body, database, trainer)
    await until(database, model, lambda found: found[-1].state == "done")
    reply = await team.train(model["id"], "backward", body)
    assert reply.status_code == 200, reply.text
    assert await num_operations(database, model["id"]) == 2


async def test_an_answered_pass_is_not_taken_over(team, model, database):
    for _ in range(2):
        assert (await team.train(model["id"], "forward-backward", batch())).status_code == 200
    assert await num_operations(database, model["id"]) == 2


async def test_a_pass_with_a_key_is_not_taken_over(team, model, database, trainer):
    url, headers = f"/v1/models/{model['id']}/train/forward-backward", {"Idempotency-Key": "mine"}
    async with paused(trainer):
        calling = asyncio.create_task(team.http.post(url, json=batch(), headers=headers))
        await until(database, model, lambda found: found)
        calling.cancel()
    assert (await team.train(model["id"], "forward-backward", batch())).status_code == 200
    assert (await team.http.post(url, json=batch(), headers=headers)).status_code == 200
    assert await num_operations(database, model["id"]) == 2


async def test_the_next_step_leaves_out_a_pass_whose_caller_is_gone(team, model, database, trainer):
    await lose(team, model, "forward-backward", batch(), database, trainer)
    assert (await team.train(model["id"], "forward-backward", OTHER)).status_code == 200
    stepped = await team.train(model["id"], "optim-step", {"learning_rate": 1e-3})
    assert (stepped.status_code, stepped.headers["Headway-Passes-Left-Out"]) == (200, "1")
    lost, kept, step = await operations(database, model)
    assert (lost.state, lost.consumed_by_id) == ("superseded", None)
    assert kept.consumed_by_id == step.id


async def test_an_answer_that_was_taken_for_a_client_that_has_gone_is_not_given(
    team, model, database, trainer, monkeypatch
):
    take = results._take_small
    calling: asyncio.Task[Any] | None = None

    async def take_too_late(*args):
        result = await take(*args)
        if result is not None and calling is not None:
            assert (await operations(database, model))[0].answered_at is not None
            calling.cancel()
            await asyncio.sleep(0.1)
        return result

    monkeypatch.setattr(results, "_take_small", take_too_late)
    calling = asyncio.create_task(team.train(model["id"], "forward-backward", batch()))
    await until(database, model, lambda found: found and found[0].state == "done" and found[0].caller is None)
    (operation,) = await operations(database, model)
    assert operation.answered_at is None


async def test_racing_identical_passes_share_the_one_that_is_in_the_log(team, model, database, trainer):
    async with paused(trainer):
        first = asyncio.create_task(team.train(model["id"], "forward-backward", batch()))
        await until(database, model, lambda found: found)
        second = asyncio.create_task(team.train(model["id"], "forward-backward", batch()))
        await asyncio.sleep(0.1)
    replies = await asyncio.gather(first, second)
    assert [reply.status_code for reply in replies] == [200, 200]
    assert await num_operations(database, model["id"]) == 1


async def test_who_shares_an_answer_keeps_it_when_the_other_goes(team, model, database, trainer):
    async with paused(trainer):
        first = asyncio.create_task(team.train(model["id"], "forward-backward", batch()))
        await until(database, model, lambda found: found)
        second = asyncio.create_task(team.train(model["id"], "forward-backward", batch()))
        caller = (await operations(database, model))[0].caller
        await until(database, model, lambda found: found[0].caller != caller)
        second.cancel()
        await until(database, model, lambda found: found[0].caller is None)
    assert (await first).status_code == 200
    assert (await operations(database, model))[0].answered_at is not None


async def test_a_repeated_step_returns_the_step_that_was_made(team, model, database):
    made = await team.step(model["id"])
    again = await team.train(model["id"], "optim-step", {"learning_rate": 1e-3})
    assert (again.status_code, again.json()) == (200, made)


async def test_racing_identical_steps_share_the_one_that_is_made(team, model, database):
    assert (await team.train(model["id"], "forward-backward", batch())).status_code == 200
    replies = await asyncio.gather(*(team.train(model["id"], "optim-step", {"learning_rate": 1e-3}) for _ in range(4)))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.json()["checkpoint_id"] for reply in replies}) == 1


async def another_body(team, model, database) -> dict[str, Any]:
    return {"learning_rate": 2e-3}


async def too_late(team, model, database) -> dict[str, Any]:
    finished = OperationRow.finished_at - timedelta(minutes=16)
    mine = OperationRow.model_id == uuid.UUID(model["id"])
    async with database.session() as session:
        await session.execute(update(OperationRow).where(mine).values(finished_at=finished))
    return {"learning_rate": 1e-3}


async def after_a_move_of_the_head(team, model, database) -> dict[str, Any]:
    assert (await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": None})).status_code == 200
    return {"learning_rate": 1e-3}


@pytest.mark.parametrize("change", [another_body, too_late, after_a_move_of_the_head])
async def test_any_other_step_without_gradients_is_a_conflict(change, team, model, database):
    await team.step(model["id"])
    reply = await team.train(model["id"], "optim-step", await change(team, model, database))
    assert (reply.status_code, reply.json()["code"]) == (409, "nothing_accumulated")
    assert "call forward_backward first" in reply.json()["detail"]


async def test_a_step_with_a_key_of_its_own_repeats_no_other(team, model, database):
    await team.step(model["id"])
    url = f"/v1/models/{model['id']}/train/optim-step"
    reply = await team.http.post(url, json={"learning_rate": 1e-3}, headers={"Idempotency-Key": "new"})
    assert reply.status_code == 409


@pytest.mark.parametrize("call", ["forward-backward", "forward", "backward", "optim-step"])
async def test_a_key_runs_each_kind_of_call_once_and_is_refused_with_another_body(call, team, model, database):
    forward_id = (await team.train(model["id"], "forward", batch())).json()["forward_id"]
    if call == "optim-step":
        await team.train(model["id"], "forward-backward", batch())
    bodies = {
        "forward-backward": (batch(), OTHER),
        "forward": (batch(), OTHER),
        "backward": tuple({"forward_id": forward_id, "weights": [[0, w, 1], [0, 1, 1]]} for w in (1.0, 2.0)),
        "optim-step": ({"learning_rate": 1e-3}, {"learning_rate": 2e-3}),
    }
    body, other = bodies[call]
    url, headers = f"/v1/models/{model['id']}/train/{call}", {"Idempotency-Key": "once"}
    made = await team.http.post(url, json=body, headers=headers)
    count = await num_operations(database, model["id"])
    again = await team.http.post(url, json=body, headers=headers)
    assert (made.status_code, again.status_code, again.content) == (200, 200, made.content)
    assert await num_operations(database, model["id"]) == count
    refused = await team.http.post(url, json=other, headers=headers)
    assert refused.status_code == 409
    assert "another body" in refused.json()["detail"]
