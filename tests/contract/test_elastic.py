"""Samplers that come and go with what is asked: figures for autoscalers, and what becomes of requests meanwhile."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import delete, update

from sampler.app import create_app as create_sampler_app
from sampler.backends.base import SamplerInfo
from server.app import create_app
from server.process.elastic import ElasticSettings, WithoutSampler
from server.process.settings import ServerSettings, Timeouts
from store.database import AsyncDatabase
from store.tables import AdapterWantRow, ModelRow, SamplerDemandRow
from tests.contract.conftest import CONTEXT, VOCABULARY, Team, another_base, serving
from tests.contract.stand_in_runner import add_environment, place
from tests.contract.stand_ins import BreaksOff
from tests.contract.test_models import no_samplers
from tests.ports.scripted_backend import END, SamplerScript, ScriptedBackend
from wire.process.tokens import Tokens

TOKEN = "a token for scrapes"
FOR_EVER = 3600.0
ELASTIC = ElasticSettings(idle_s=600.0, target=4, reported_every_s=0.2)


@pytest.fixture
async def own_base(database: AsyncDatabase, base: ModelRow, sampler_script: SamplerScript) -> AsyncIterator[ModelRow]:
    """Of these tests alone: what others leave open is demand for theirs."""
    slug = f"org/elastic-{uuid.uuid4().hex[:8]}"
    backend = ScriptedBackend(sampler_script, SamplerInfo(VOCABULARY, CONTEXT, (END,)), holds_all=True)
    async with (
        serving(BreaksOff(create_sampler_app(backend, Tokens("token")))) as url,
        another_base(database, base, slug, url) as own,
    ):
        yield own


@pytest.fixture
async def model(team: Team, own_base: ModelRow) -> dict[str, Any]:
    return await team.fork(str(own_base.id))


@asynccontextmanager
async def elastic_server(
    database_url: str, folder: Path, team: Team, elastic: ElasticSettings, samplers_s: float = FOR_EVER
) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    settings = ServerSettings(
        database_url,
        f"file://{folder}",
        "token",
        timeouts=Timeouts(samplers_s=samplers_s),
        elastic=elastic,
        metrics_token=TOKEN,
    )
    app = create_app(settings)
    options: dict[str, Any] = {"headers": team.http.headers, "timeout": 60, "trust_env": False}
    async with serving(app) as url, httpx.AsyncClient(base_url=url, **options) as http:
        yield app, http


async def scaling(http: httpx.AsyncClient, of: str) -> dict[str, Any]:
    reply = await http.get(f"/scaling/{of}", headers={"Authorization": f"Bearer {TOKEN}"})
    assert reply.status_code == 200, reply.text
    return reply.json()


async def until_reported(http: httpx.AsyncClient, base: str, **facts: Any) -> dict[str, Any]:
    """Once the figures of the base are these."""
    while True:
        found = await scaling(http, f"samplers/{base}")
        if all(found[name] == value for name, value in facts.items()):
            return found
        await asyncio.sleep(0.05)


async def forget_demand(database) -> None:
    """All that was asked was asked long ago."""
    ago = timedelta(days=1)
    changed = {"asked_at": SamplerDemandRow.asked_at - ago, "seen_at": SamplerDemandRow.seen_at - ago}
    async with database.session() as session:
        await session.execute(update(SamplerDemandRow).values(changed))


def chat(model: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"model": model["model_name"], "messages": [{"role": "user", "content": "12*3?"}], **changes}


async def test_figures_want_the_token_or_an_admins_key(database_url, team, own_base, tmp_path):
    async with elastic_server(database_url, tmp_path, team, ELASTIC) as (_, http):
        for of in (f"samplers/{own_base.slug}", "runners"):
            assert (await http.get(f"/scaling/{of}")).json()["code"] == "forbidden"
            assert (await http.get(f"/scaling/{of}", headers={"Authorization": ""})).status_code == 401
            assert (await scaling(http, of))["value"] >= 0
        unknown = await http.get("/scaling/samplers/nobody", headers={"Authorization": f"Bearer {TOKEN}"})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
        assert own_base.slug in unknown.json()["detail"]


async def test_requests_that_wait_scale_up_from_zero_and_are_served_by_the_sampler_that_comes(
    database, database_url, team, model, own_base, tmp_path
):
    async with (
        elastic_server(database_url, tmp_path, team, ELASTIC) as (app, http),
        elastic_server(database_url, tmp_path, team, ELASTIC) as (_, another),
    ):
        async with no_samplers(database):
            await forget_demand(database)
            waiting = [asyncio.create_task(http.post("/chat/completions", json=chat(model)))]
            found = await until_reported(another, own_base.slug, live=0, value=1)
            assert found["asked_s"] < ELASTIC.idle_s
            waiting += [asyncio.create_task(http.post("/chat/completions", json=chat(model, n=2))) for _ in range(2)]
            while app.state.shutdown.num_waiting < len(waiting):  # noqa: ASYNC110 - it happens in the server
                await asyncio.sleep(0.01)
            found = await until_reported(another, own_base.slug, waiting=5)
            assert found["value"] == 2, "5 sequences, 4 to a sampler"
        assert {reply.status_code for reply in await asyncio.gather(*waiting)} == {200}
        assert (await until_reported(another, own_base.slug, running=0, waiting=0))["value"] == 1
        await forget_demand(database)
        assert (await scaling(another, f"samplers/{own_base.slug}"))["asked_s"] > ELASTIC.idle_s


async def test_what_is_waited_for_is_wanted_for_as_long_as_it_is_waited_for(
    database, database_url, team, model, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("server.sampling.lookups._WANTED_AGAIN_S", 0.01)
    monkeypatch.setattr("server.sampling.patience._WANT_EVERY_S", 0.01)
    checkpoint = uuid.UUID((await team.step(model["id"]))["checkpoint_id"])

    async def is_wanted() -> bool:
        async with database.session() as session:
            return await session.get(AdapterWantRow, checkpoint) is not None

    async with elastic_server(database_url, tmp_path, team, ELASTIC) as (_, http):
        async with no_samplers(database):
            waiting = asyncio.create_task(http.post("/chat/completions", json=chat(model)))
            for _ in range(2):
                while not await is_wanted():  # noqa: ASYNC110 - it happens in the server
                    await asyncio.sleep(0.01)
                async with database.session() as session:
                    await session.execute(delete(AdapterWantRow))  # as if a sampler took longer to start than it counts
        assert (await waiting).status_code == 200


async def test_sequences_at_a_sampler_are_counted_until_their_stream_ends(
    database, database_url, team, model, own_base, tmp_path, sampler_script
):
    sampler_script.endless = True
    async with elastic_server(database_url, tmp_path, team, ELASTIC) as (_, http):
        await forget_demand(database)
        async with http.stream("POST", "/chat/completions", json=chat(model, stream=True, n=9)) as reply:
            assert reply.status_code == 200
            assert (await until_reported(http, own_base.slug, running=9))["value"] == 3
        assert (await until_reported(http, own_base.slug, running=0))["value"] == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_request_is_refused_at_once_where_that_is_configured_and_asks_for_a_sampler(
    stream, database, database_url, team, model, own_base, tmp_path
):
    refusing = replace(ELASTIC, without=WithoutSampler.REFUSE)
    async with elastic_server(database_url, tmp_path, team, refusing) as (_, http):
        async with no_samplers(database):
            await forget_demand(database)
            reply = await http.post("/chat/completions", json=chat(model, stream=stream))
            assert reply.status_code == 503
            assert int(reply.headers["retry-after"]) > 0
            assert "one is asked for" in reply.json()["detail"]
            await until_reported(http, own_base.slug, value=1, waiting=0)
        await until_reported(http, own_base.slug, live=1)  # its next heartbeat
        again = await http.post("/chat/completions", json=chat(model, stream=stream))
        assert again.status_code == 200, again.text


async def test_the_wait_for_a_sampler_to_start_has_a_limit_of_its_own(database, database_url, team, model, tmp_path):
    async with (
        elastic_server(database_url, tmp_path, team, replace(ELASTIC, wait_s=0.0)) as (_, http),
        no_samplers(database),
    ):
        reply = await http.post("/chat/completions", json=chat(model))
        assert (reply.status_code, "came up within 0 s" in reply.json()["detail"]) == (503, True)
    async with elastic_server(database_url, tmp_path, team, replace(ELASTIC, wait_s=FOR_EVER), 0.0) as (app, http):
        async with no_samplers(database):
            waiting = asyncio.create_task(http.post("/chat/completions", json=chat(model)))
            while not app.state.shutdown.num_waiting:  # noqa: ASYNC110 - it happens in the server
                await asyncio.sleep(0.01)
        assert (await waiting).status_code == 200


async def test_a_base_that_is_scaled_to_zero_on_purpose_is_ready_and_raises_no_alarm(
    database, database_url, team, own_base, tmp_path
):
    async with (
        elastic_server(database_url, tmp_path, team, ELASTIC) as (_, elastic),
        elastic_server(database_url, tmp_path, team, ElasticSettings()) as (_, fixed),
        no_samplers(database),
    ):
        await forget_demand(database)
        wanted = f'headway_samplers_wanted{{base="{own_base.slug}"}}'
        for http, number, is_lacking in ((elastic, 0, False), (fixed, 1, True)):
            page = await http.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
            assert f"{wanted} {number}.0" in page.text
            missing = (await http.get("/readyz")).json()["missing"]
            assert any(f"no sampler for base {own_base.slug} is alive" in one for one in missing) is is_lacking


async def test_slots_of_runners_are_wanted_for_what_is_queued(database, database_url, team, tmp_path):
    label = team.name
    build_id = await add_environment(database, label, label)
    async with elastic_server(database_url, tmp_path, team, ELASTIC) as (_, http):
        assert (await scaling(http, f"runners?label={label}"))["value"] == 0
        for _ in range(3):
            await place(database, build_id, label)
        assert await scaling(http, f"runners?label={label}") == {
            "value": 3, "label": label, "queued": 3, "running": 0, "slots": 0
        }  # fmt: skip
