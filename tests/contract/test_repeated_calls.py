"""A call that was carried out is answered when it is sent again, whatever has changed in between: see
docs/durability.md."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import func, select, update

from store.database import AsyncDatabase
from store.tables import ModelRow, OperationRow, TeamRow
from tests.contract.conftest import Team, batch, num_operations, trajectory
from tests.contract.test_lost_answers import lose, until
from tests.contract.test_training_by_id import TURNS, roll_out, sampled

STEP = {"learning_rate": 1e-3}
JSON = {"Content-Type": "application/json"}


class World:
    def __init__(self, team: Team, model: dict[str, Any], database: AsyncDatabase) -> None:
        self.team, self.model, self.database = team, model, database
        self.traces: list[str] = []

    async def send(self, call: str, body: Any, key: str | None = "once", model: str | None = None) -> Any:
        url = f"/v1/models/{model or self.model['id']}/train/{call}"
        headers = {"Idempotency-Key": key} if key else {}
        return await self.team.http.post(url, json=body, headers=headers)

    async def limit(self, **quotas: int | None) -> None:
        mine = select(ModelRow.team_id).where(ModelRow.id == uuid.UUID(self.model["id"])).scalar_subquery()
        async with self.database.session() as session:
            await session.execute(update(TeamRow).where(TeamRow.id == mine).values(**quotas))


@pytest.fixture
def world(team: Team, model: dict[str, Any], database: AsyncDatabase) -> World:
    return World(team, model, database)


async def the_quota_of_tokens_is_spent(world: World) -> None:
    await world.limit(max_training_tokens_per_day=1)
    assert (await world.send("forward-backward", batch(), "another")).json()["code"] == "quota_spent"


async def the_storage_is_full(world: World) -> None:
    await world.limit(max_storage_bytes=0)
    assert (await world.send("optim-step", {"learning_rate": 2e-3}, "another")).json()["code"] == "quota_full"


async def the_model_is_paused(world: World) -> None:
    (await world.team.http.post(f"/v2/models/{world.model['id']}/pause", json={"reason": "x"})).raise_for_status()
    assert (await world.send("forward-backward", batch(), "another")).json()["code"] == "paused"


async def the_head_moves(world: World) -> None:
    (await world.send("forward-backward", batch(), "pass")).raise_for_status()
    (await world.send("optim-step", STEP, "step")).raise_for_status()


async def a_rollout_is_deleted(world: World) -> None:
    assert (await world.team.http.delete(f"/v2/traces/{world.traces[0]}")).status_code < 300
    assert (await world.send("forward-backward", batch(*world.traces), "another")).status_code == 422


async def a_reward_is_reported_again(world: World) -> None:
    url = f"/v2/trace/{world.traces[0]}/exit"
    (await world.team.http.post(url, json={"status": "completed", "reward": 0.25})).raise_for_status()


INLINE = [the_quota_of_tokens_is_spent, the_storage_is_full, the_model_is_paused, the_head_moves]
BY_ID = [*INLINE, a_rollout_is_deleted, a_reward_is_reported_again]
Change = Callable[[World], Awaitable[None]]


async def answered_again(world: World, call: str, body: Any, change: Change) -> None:
    made = await world.send(call, body)
    assert made.status_code == 200, made.text
    await change(world)
    count = await num_operations(world.database, world.model["id"])
    again = await world.send(call, body)
    assert (again.status_code, again.content) == (200, made.content), again.text
    assert await num_operations(world.database, world.model["id"]) == count


@pytest.mark.parametrize("change", BY_ID)
@pytest.mark.parametrize("call", ["forward-backward", "forward"])
async def test_a_key_is_answered_although_its_trace_ids_mean_something_else_now(
    call: str, change: Change, world: World
):
    world.traces = [await roll_out(world.team, TURNS[:1]) for _ in range(2)]
    await answered_again(world, call, batch(*world.traces), change)


async def test_a_key_is_answered_although_its_rollouts_are_too_old_by_now(world: World):
    body = batch(await sampled(world.team, world.model), max_staleness=0)
    await answered_again(world, "forward-backward", body, the_head_moves)
    assert (await world.send("forward-backward", body, "another")).status_code == 422


@pytest.mark.parametrize("change", INLINE)
async def test_a_key_of_a_backward_is_answered_although_its_handle_is_gone(change: Change, world: World):
    forward_id = (await world.send("forward", batch(), None)).json()["forward_id"]
    await answered_again(world, "backward", {"forward_id": forward_id, "weights": [[0, 1, 1], [0, 1, 1]]}, change)


@pytest.mark.parametrize("change", INLINE)
async def test_a_key_of_a_step_is_answered_although_the_next_one_would_be_refused(change: Change, world: World):
    await world.send("forward-backward", batch(), "first")
    await answered_again(world, "optim-step", STEP, change)


async def test_requests_are_compared_as_they_were_sent_and_not_by_their_bytes(world: World):
    trace = await roll_out(world.team, TURNS[:1])
    inputs = [trajectory(reward=1.0, trace_id=str(uuid.UUID(trace))), trace]
    (
        await world.send("forward-backward", batch(*inputs, loss_fn_config={"epsilon": 0.2}, loss_fn="ppo"))
    ).raise_for_status()
    spelled = {
        "loss_fn_config": {"epsilon": 2e-1},
        "num_substeps": 1,
        "reward_scale": 1,
        "group_size": None,
        "loss_fn": "ppo",
        "inputs": [{**inputs[0], "trace_id": trace, "reward": 1}, str(uuid.UUID(trace)).upper()],
    }
    url = f"/v1/models/{world.model['model_name']}/train/forward-backward"
    headers = {"Idempotency-Key": "once", **JSON}
    again = await world.team.http.post(url, content=json.dumps(spelled, indent=3), headers=headers)
    assert again.status_code == 200, again.text
    assert await num_operations(world.database, world.model["id"]) == 1


@pytest.mark.parametrize(
    "other",
    [{"reward_scale": 2.0}, {"group_size": 1}, {"num_substeps": 2}, {"loss_fn_config": {}}, {"max_staleness": 3}],
)
async def test_another_request_under_the_same_key_is_refused(other: dict[str, Any], world: World):
    (await world.send("forward-backward", batch())).raise_for_status()
    refused = await world.send("forward-backward", batch(**other))
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert (await world.send("optim-step", STEP)).status_code == 409


@pytest.mark.parametrize("by_id", [False, True])
async def test_a_key_of_an_earlier_version_is_compared_by_what_it_was_resolved_to(by_id: bool, world: World):
    inputs = [await roll_out(world.team, TURNS[:1])] if by_id else [trajectory()]
    made = await world.send("forward-backward", batch(*inputs))
    async with world.database.session() as session:
        mine = OperationRow.model_id == uuid.UUID(world.model["id"])
        await session.execute(update(OperationRow).where(mine).values(request_digest=None))
    await the_model_is_paused(world)
    again = await world.send("forward-backward", batch(*inputs))
    assert (again.status_code, again.content) == (200, made.content), again.text
    assert (await world.send("forward-backward", batch(*inputs, reward_scale=2.0))).status_code == 409


@pytest.mark.parametrize("change", [the_model_is_paused, the_quota_of_tokens_is_spent])
async def test_a_pass_without_a_key_whose_answer_got_lost_is_found_again(change: Change, world: World, trainer):
    trace = await roll_out(world.team, TURNS[:1])
    await lose(world.team, world.model, "forward-backward", batch(trace), world.database, trainer)
    await change(world)
    assert (await world.team.http.delete(f"/v2/traces/{trace}")).status_code < 300
    again = await world.send("forward-backward", batch(trace), None)
    assert again.status_code == 200, again.text
    assert await num_operations(world.database, world.model["id"]) == 1
    assert (await world.send("forward-backward", batch(trace), None)).status_code in (409, 429), "that was answered"


@pytest.mark.parametrize("change", [the_model_is_paused, the_storage_is_full])
async def test_a_step_without_a_key_is_answered_again(change: Change, world: World):
    made = await world.team.step(world.model["id"])
    await change(world)
    again = await world.send("optim-step", STEP, None)
    assert (again.status_code, again.json()) == (200, made)
    refused = await world.send("optim-step", {"learning_rate": 2e-3}, None)
    assert refused.status_code in (403, 409)
    assert await num_operations(world.database, world.model["id"]) == 2


async def test_a_forward_without_a_key_whose_caller_is_gone_is_found_again_unless_the_head_has_moved(
    world: World, trainer
):
    await lose(world.team, world.model, "forward", batch(), world.database, trainer)
    assert (await world.send("forward", batch(), None)).status_code == 200
    assert await num_operations(world.database, world.model["id"]) == 1
    await lose(world.team, world.model, "forward", batch(), world.database, trainer)
    await until(world.database, world.model, lambda found: found[-1].state == "done")
    await the_head_moves(world)
    count = await num_operations(world.database, world.model["id"])
    assert (await world.send("forward", batch(), None)).status_code == 200
    assert await num_operations(world.database, world.model["id"]) == count + 1


async def test_identical_forwards_at_the_same_time_have_a_handle_each(world: World):
    replies = await asyncio.gather(*(world.send("forward", batch(), None) for _ in range(3)))
    assert len({reply.json()["forward_id"] for reply in replies}) == 3


async def test_nothing_of_a_refused_call_is_in_the_log(world: World):
    await the_model_is_paused(world)
    for call, body in (("forward-backward", batch()), ("forward", batch()), ("optim-step", STEP)):
        assert (await world.send(call, body, None)).json()["code"] == "paused"
    async with world.database.session() as session:
        mine = OperationRow.model_id == uuid.UUID(world.model["id"])
        assert await session.scalar(select(func.count()).select_from(OperationRow).where(mine)) == 0
