"""`/readyz` is 200 when a chat with any base would be served and trained, and says what is missing otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.engine import make_url

from server.app import create_app
from server.process.settings import ServerSettings, TrainerStart
from store.tables import SamplerAdapterRow, SamplerRow, TrainerRow, TrainerStartRow
from tests.contract.conftest import serving
from tests.contract.test_models import no_samplers
from wire.adapter_names import base_adapter_name

NOBODY = "http://127.0.0.1:1"


@asynccontextmanager
async def changed(database, row, base_id, **values: Any):
    """For a while the base's samplers or trainers are as `values` say."""
    async with database.session() as session:
        before = dict.fromkeys(values)
        if "url" in values:
            before["url"] = (await session.scalars(select(SamplerRow.url).where(SamplerRow.base_id == base_id))).one()
        await session.execute(update(row).where(row.base_id == base_id).values(**values))
    try:
        yield
    finally:
        async with database.session() as session:
            await session.execute(update(row).where(row.base_id == base_id).values(**before))


@pytest.fixture
def missing(origin, base):
    """What is said to be missing of the base. (Other tests register bases that nobody serves.)"""

    async def missing(url: str = origin) -> list[str]:
        async with httpx.AsyncClient(trust_env=False) as http:
            reply = await http.get(f"{url}/readyz")
        assert reply.status_code == (503 if reply.json()["missing"] else 200)
        assert reply.json()["ready"] is (reply.status_code == 200)
        return [sentence for sentence in reply.json()["missing"] if base.slug in sentence]

    return missing


async def test_a_base_with_a_sampler_and_a_trainer_lacks_nothing(missing):
    assert await missing() == []


async def test_a_base_whose_samplers_are_all_drained_is_not_ready(missing, database, base):
    async with changed(database, SamplerRow, base.id, drained_at=func.clock_timestamp()):
        [sentence] = await missing()
    assert "every sampler for base" in sentence
    assert "headway undrain" in sentence


async def test_a_base_without_a_live_sampler_is_not_ready(missing, database):
    async with no_samplers(database):
        [sentence] = await missing()
    assert "start one with 'headway sampler" in sentence


async def test_a_sampler_that_lives_and_does_not_answer_serves_nobody(missing, database, base):
    async with changed(database, SamplerRow, base.id, url=NOBODY):
        [sentence] = await missing()
    assert sentence == f"no sampler for base {base.slug} answers"


@pytest.mark.parametrize(("error", "said"), [(None, "has loaded its weights yet"), ("too broken", "too broken")])
async def test_a_sampler_that_has_not_loaded_the_base_serves_nobody(error, said, missing, database, base):
    adapter = SamplerAdapterRow.adapter == base_adapter_name(base.id)
    async with database.session() as session:
        sampler_id = await session.scalar(
            delete(SamplerAdapterRow).where(adapter).returning(SamplerAdapterRow.sampler_id)
        )
        row = {"sampler_id": sampler_id, "adapter": base_adapter_name(base.id)}
        if error:
            await session.execute(insert(SamplerAdapterRow).values(**row, state="failed", error=error))
    try:
        [sentence] = await missing()
    finally:
        async with database.session() as session:
            await session.execute(delete(SamplerAdapterRow).where(adapter))
            await session.execute(insert(SamplerAdapterRow).values(**row, state="loaded"))
    assert said in sentence


async def test_a_base_without_a_trainer_is_ready_only_where_one_would_be_started(
    missing, database, database_url, base, tmp_path
):
    settings = ServerSettings(database_url, f"file://{tmp_path}", "token", trainer_start=TrainerStart())
    async with (
        changed(database, TrainerRow, base.id, drained_at=func.clock_timestamp()),
        serving(create_app(settings)) as on_demand,
    ):
        [sentence] = await missing()
        assert f"no trainer for base {base.slug}" in sentence
        assert await missing(on_demand) == []
        async with database.session() as session:
            failed = {"asked_at": func.clock_timestamp(), "next_at": func.clock_timestamp(), "attempts": 1}
            await session.execute(insert(TrainerStartRow).values(base_id=base.id, error="no such machine", **failed))
        try:
            [sentence] = await missing(on_demand)
        finally:
            async with database.session() as session:
                await session.execute(delete(TrainerStartRow).where(TrainerStartRow.base_id == base.id))
        assert "no such machine" in sentence


class Relay:
    """Between a server and its PostgreSQL, on the path of one socket; silent while `is_open` is not set."""

    def __init__(self, database_url: str) -> None:
        self._url = make_url(database_url)
        self.is_open = asyncio.Event()
        self.is_open.set()

    @asynccontextmanager
    async def url(self, folder: Path) -> AsyncIterator[str]:
        host, port = str(self._url.query["host"]), self._url.port or self._url.query.get("port", 5432)
        name = f".s.PGSQL.{port}"

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_unix_connection(f"{host}/{name}")
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))

        async with await asyncio.start_unix_server(relay, folder / name):
            yield self._url.update_query_dict({"host": str(folder)}).render_as_string(hide_password=False)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            await self.is_open.wait()
            writer.write(chunk)
        writer.close()


async def test_a_server_takes_requests_without_samplers_and_not_without_its_database(
    database, database_url, base, tmp_path
):
    relay = Relay(database_url)
    async with (
        relay.url(tmp_path) as url,
        serving(create_app(ServerSettings(url, f"file://{tmp_path}", "token"))) as origin,
        httpx.AsyncClient(base_url=origin, timeout=60, trust_env=False) as http,
    ):
        async with no_samplers(database):
            assert (await http.get("/readyz/server")).json() == {"ready": True, "missing": []}
        await asyncio.sleep(1.0)  # until it has to ask again
        relay.is_open.clear()
        asked = [http.get("/readyz/server") for _ in range(3)]
        for reply in await asyncio.gather(*asked):
            assert (reply.status_code, reply.json()["missing"]) == (503, ["the database does not answer"])
        relay.is_open.set()
        while (await http.get("/readyz/server")).status_code != 200:  # noqa: ASYNC110 - it happens in the server
            await asyncio.sleep(0.05)
