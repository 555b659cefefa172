"""More requests at once than a server has connections to its database, or places for."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.app import create_app
from server.process.settings import ServerSettings, TrainingLimits
from server.protocols.hud.training.schemas import ForwardBackwardRequest
from server.training.operations import Prepared
from server.training.requests import BatchRequest
from store.pool_queue import QueueLimits
from tests.contract.conftest import Team, batch, num_operations, serving, trajectory
from tests.contract.stand_ins import StandInTrainer


async def test_requests_that_find_every_connection_lent_are_refused_and_nothing_else_waits(
    database_url, tmp_path: Path, team, model
):
    settings = ServerSettings(
        database_url, f"file://{tmp_path}", "token", database_pool_size=1, database_queue=QueueLimits(most_waiting=0)
    )
    app = create_app(settings)
    headers = {"Authorization": f"Bearer {team.key}"}
    chat = {"model": model["model_name"], "messages": [{"role": "user", "content": "hi"}]}
    async with serving(app) as url, httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as http:
        async with AsyncExitStack() as lent:
            await lent.enter_async_context(app.state.context.database.session())
            await lent.enter_async_context(app.state.context.database.connection())
            for reply in (await http.get("/v2/models"), await http.post("/chat/completions", json=chat)):
                assert (reply.status_code, reply.json()["code"]) == (503, "too_busy"), reply.text
                assert int(reply.headers["retry-after"]) > 0
                assert "more calls at once than it can work on" in reply.json()["detail"]
            ready = (await http.get("/readyz")).json()
            assert ready["database"]
            assert ready["bases"]
        assert (await http.get("/v2/models")).status_code == 200


@asynccontextmanager
async def crowded_server(database_url: str, blobs: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(ServerSettings(database_url, f"file://{blobs}", "token", **settings))
    limits = httpx.Limits(max_connections=None)
    async with serving(app) as url, httpx.AsyncClient(base_url=url, timeout=60, limits=limits, trust_env=False) as http:
        yield http


@pytest.fixture
def paused(trainer: StandInTrainer) -> Iterator[StandInTrainer]:
    """Nothing that is sent to it is answered before it goes on."""
    trainer.paused = True
    yield trainer
    trainer.paused = False


def train(http: httpx.AsyncClient, team: Team, model: dict[str, Any], reward: float) -> asyncio.Task[httpx.Response]:
    url, headers = f"/v1/models/{model['id']}/train/forward-backward", {"Authorization": f"Bearer {team.key}"}
    body = batch(trajectory(reward=reward), trajectory(reward=0.0))
    return asyncio.create_task(http.post(url, json=body, headers=headers))


async def until_logged(database, model: dict[str, Any], number: int) -> None:
    while await num_operations(database, model["id"]) < number:  # noqa: ASYNC110 - it happens in the server
        await asyncio.sleep(0.02)


async def test_calls_that_wait_for_a_trainer_take_no_connection_and_are_all_answered(
    database_url, database, tmp_path: Path, team: Team, model, paused: StandInTrainer
):
    async with crowded_server(database_url, tmp_path, database_pool_size=2) as http:
        calls = [train(http, team, model, 1.0 + number) for number in range(100)]
        await until_logged(database, model, len(calls))
        assert (await http.get("/readyz")).json()["database"]
        assert (await http.get("/v2/models", headers={"Authorization": f"Bearer {team.key}"})).status_code == 200
        assert not any(call.done() for call in calls)
        paused.paused = False
        assert {reply.status_code for reply in await asyncio.gather(*calls)} == {200}


async def test_training_calls_that_find_no_place_are_refused_with_a_sentence_and_a_time(
    database_url, database, tmp_path: Path, team: Team, model, base, other_team: Team, paused: StandInTrainer
):
    others_model = await other_team.fork(str(base.id))
    async with crowded_server(
        database_url, tmp_path, training_limits=TrainingLimits(calls=2, calls_per_team=1)
    ) as http:
        first = train(http, team, model, 1.0)
        await until_logged(database, model, 1)
        refused = await train(http, team, model, 2.0)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert "1 training calls of this team wait for an answer at this server" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) > 0
        others = train(http, other_team, others_model, 1.0)
        await until_logged(database, others_model, 1)
        paused.paused = False
        assert [(await call).status_code for call in (first, others)] == [200, 200]
        assert (await train(http, team, model, 2.0)).status_code == 200


async def test_one_team_more_than_a_server_has_places_for_is_refused_until_there_is_one(
    database_url, database, tmp_path: Path, team: Team, model, base, other_team: Team, paused: StandInTrainer
):
    others_model = await other_team.fork(str(base.id))
    async with crowded_server(
        database_url, tmp_path, training_limits=TrainingLimits(calls=1, calls_per_team=1)
    ) as http:
        first = train(http, team, model, 1.0)
        await until_logged(database, model, 1)
        refused = await train(http, other_team, others_model, 1.0)
        assert (refused.status_code, refused.json()["code"]) == (503, "too_busy")
        assert "1 training calls wait for an answer at this server" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) > 0
        first.cancel()  # who hangs up leaves a place
        paused.paused = False
        while (reply := await train(http, other_team, others_model, 1.0)).status_code == 503:  # noqa: ASYNC110 - the server notices
            await asyncio.sleep(0.02)
        assert reply.status_code == 200


async def test_a_call_that_waits_keeps_nothing_of_what_was_sent(database, team: Team, model, paused: StandInTrainer):
    call = train(team.http, team, model, 1.0)
    await until_logged(database, model, 1)
    await asyncio.sleep(0.2)  # the server hears of that after we do
    kinds = (ForwardBackwardRequest, BatchRequest, Prepared)
    assert not [kept for kept in gc.get_objects() if issubclass(type(kept), kinds)]  # isinstance asks dead weak proxies
    paused.paused = False
    assert (await call).status_code == 200
