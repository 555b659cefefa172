"""`/metrics` of a server that serves: who may read it, and that it counts what happened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.app import create_app
from server.auth.service import create_key
from server.process.settings import GatewayLimits, ServerSettings
from store.database import AsyncDatabase
from store.tables import ModelRow
from tests.contract.conftest import Team, new_team, serving

TOKEN = "a token for scrapes"


@pytest.fixture(scope="module")
async def metered(database_url: str, base: ModelRow, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    blobs: Path = tmp_path_factory.mktemp("blobs")
    limits = GatewayLimits(running_per_team=1, waiting_per_team=0)
    settings = ServerSettings(database_url, f"file://{blobs}", "token", gateway_limits=limits, metrics_token=TOKEN)
    async with serving(create_app(settings)) as url:
        yield url


@pytest.fixture
async def member(metered: str, database: AsyncDatabase) -> AsyncIterator[Team]:
    async with new_team(metered, database) as team:
        yield team


async def scrape(origin: str, key: str | None = TOKEN) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        return await http.get(f"{origin}/metrics", headers=headers)


async def samples(origin: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Values by name and by label values, in the order of the labels' names."""
    text = (await scrape(origin)).text
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(s.name, tuple(value for _, value in sorted(s.labels.items()))): s.value for s in found}


async def test_scrapes_want_the_token_or_an_admins_key(metered: str, member: Team, database: AsyncDatabase):
    async with database.session() as session:
        admin = await create_key(session, member.name, "admin", role="admin")
    assert (await scrape(metered, None)).status_code == 401
    assert (await scrape(metered, "nonsense")).status_code == 401
    refused = await scrape(metered, member.key)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    for key in (admin, TOKEN):
        found = await scrape(metered, key)
        assert found.status_code == 200
        assert found.headers["content-type"].startswith("text/plain")


async def test_the_token_for_scrapes_opens_nothing_else(metered: str):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=metered, headers=headers, trust_env=False, verify=False) as http:
        assert (await http.get("/v2/models")).status_code == 401


async def test_without_a_token_nobody_gets_in_by_an_empty_one(origin: str):
    assert (await scrape(origin, "None")).status_code == 401
    assert (await scrape(origin, "")).status_code == 401


async def test_chats_steps_and_refusals_are_counted_under_route_templates(metered: str, member: Team, base: ModelRow):
    model = await member.fork(str(base.id))
    chat = {"model": model["id"], "messages": [{"role": "user", "content": "hi"}]}
    await member.http.post("/chat/completions", json=chat)  # from now on a key is looked up together with its model
    before = await samples(metered)
    assert (await member.http.post("/chat/completions", json=chat)).status_code == 200
    await member.step(model["id"])
    assert (await member.http.get("/v2/nothing/secret-path")).status_code == 404
    after = await samples(metered)

    def more(name: str, *labels: str) -> float:
        return after.get((name, labels), 0.0) - before.get((name, labels), 0.0)

    requests = "headway_http_request_seconds_count"
    assert more(requests, "POST", "/chat/completions", "200") == 1
    assert more(requests, "POST", "/v1/models/{model_id}/train/optim-step", "200") == 1
    assert more(requests, "GET", "none", "404") == 1
    assert not any("secret-path" in value for _, labels in after for value in labels)
    assert more("headway_gateway_tokens_total", "sampled") > 0
    assert more("headway_gateway_tokens_total", "prompt") > 0
    assert more("headway_gateway_sampler_seconds_count", "generate", "done") == 1
    assert more("headway_operation_seconds_count", "forward_backward", "done") == 1
    assert more("headway_gateway_lookups_total", "asked") == 1
    assert after["headway_database_up", ()] == 1
    assert after["headway_trainers", (str(base.slug), "ready")] >= 1
    assert any(name == "headway_team_info" and member.name in labels for name, labels in after)
