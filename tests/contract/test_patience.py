"""One patience for samplers, whether none lives, none answers, or none has loaded the checkpoint."""

from __future__ import annotations

import asyncio
import time
import uuid

import httpx
import pytest
from sqlalchemy import select, update

from server.app import create_app
from server.process.settings import ServerSettings, Timeouts
from store.planes.promotion_policy import PATIENCE_S
from store.tables import SamplerAdapterRow, SamplerRow
from tests.contract.conftest import serving
from tests.contract.test_models import no_samplers, unloaded_checkpoint
from tests.contract.test_pages import signed_in

USER = {"role": "user", "content": "12*3?"}
NOBODY = "http://127.0.0.1:1"
FOR_EVER = 3600.0
LIMIT_S = 1.0
"""Of the session's server: see `tests.contract.conftest`."""


class unreachable_samplers:
    """For a while the samplers live, and nobody listens where they are."""

    def __init__(self, database) -> None:
        self._database = database

    async def __aenter__(self) -> None:
        async with self._database.session() as session:
            self._urls = {row.id: row.url for row in await session.execute(select(SamplerRow.id, SamplerRow.url))}
            await session.execute(update(SamplerRow).values(url=NOBODY))

    async def __aexit__(self, *_: object) -> None:
        async with self._database.session() as session:
            for sampler_id, url in self._urls.items():
                await session.execute(update(SamplerRow).where(SamplerRow.id == sampler_id).values(url=url))


def test_it_is_the_same_for_chats_steps_and_heads_as_documented():
    from pathlib import Path

    from trainer.settings import TrainerSettings

    assert Timeouts().samplers_s == TrainerSettings.__dataclass_fields__["promotion_timeout_s"].default == PATIENCE_S
    docs = Path(__file__).parents[2] / "docs"
    for page in ("gateway.md", "operations.md"):
        assert f"for {PATIENCE_S:.0f} s in all" in " ".join((docs / page).read_text().split())


@pytest.mark.parametrize("away", [no_samplers, unreachable_samplers])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_chat_is_served_by_a_sampler_that_comes_back(
    away, stream, database, database_url, team, model, tmp_path
):
    settings = ServerSettings(database_url, f"file://{tmp_path}", "token", timeouts=Timeouts(samplers_s=FOR_EVER))
    app = create_app(settings)
    body = {"model": model["model_name"], "messages": [USER], "stream": stream}
    async with (
        serving(app) as url,
        httpx.AsyncClient(base_url=url, headers=team.http.headers, timeout=60, trust_env=False) as http,
    ):
        async with away(database):
            waiting = asyncio.create_task(http.post("/chat/completions", json=body))
            while not app.state.shutdown.num_waiting:  # noqa: ASYNC110 - it happens in the server
                await asyncio.sleep(0.01)
        reply = await waiting
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("away", [no_samplers, unreachable_samplers])
async def test_a_chat_waits_as_long_for_a_sampler_that_is_away_as_for_one_that_does_not_answer(
    away, database, team, model
):
    async with away(database):
        for _ in range(2):  # a second one is not refused at once
            began = time.monotonic()
            reply = await team.http.post("/chat/completions", json={"model": model["model_name"], "messages": [USER]})
            assert reply.status_code == 503
            assert int(reply.headers["retry-after"]) > 0
            assert time.monotonic() - began >= LIMIT_S


async def test_who_waits_for_a_sampler_that_gave_up_reads_why_and_so_does_the_system_page(
    database, team, model, origin
):
    why = "vLLM died 5 times in a row: head size 16 is not supported"
    async with no_samplers(database):
        async with database.session() as session:
            await session.execute(update(SamplerRow).values(trouble=why))
        try:
            reply = await team.http.post("/chat/completions", json={"model": model["model_name"], "messages": [USER]})
            async with signed_in(origin, team.key) as browser:
                page = await browser.get("/system")
        finally:
            async with database.session() as session:
                await session.execute(update(SamplerRow).values(trouble=None))
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
    assert f"({why})" in reply.json()["detail"]
    assert why in page.text


async def test_a_checkpoint_that_every_sampler_refuses_is_not_waited_for(database, team, model, base):
    broken = await unloaded_checkpoint(database, model["id"])
    async with database.session() as session:
        sampler_id = await session.scalar(select(SamplerRow.id).where(SamplerRow.base_id == base.id))
        row = SamplerAdapterRow(sampler_id=sampler_id, adapter=broken.adapter_name, state="failed", error="too broken")
        session.add(row)
    body = {"model": model["model_name"], "messages": [USER], "checkpoint": str(uuid.UUID(str(broken.id)))}
    reply = await team.http.post("/chat/completions", json=body)
    assert reply.status_code == 503
    assert "too broken" in reply.json()["detail"]
