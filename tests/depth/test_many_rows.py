"""What is asked for often reads a few rows, however many models, steps, operations and rollouts there are: counted in
rows, not in time. What may read more (lists that say how many there are, reports, collections) is in bench/depth.py."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sampler.app import create_app as create_sampler_app
from sampler.backends.base import SamplerInfo
from server.app import create_app
from server.process.settings import GuardSettings, ServerSettings, Timeouts
from store.database import AsyncDatabase, normalise_url, psycopg_dsn
from store.embedded import EmbeddedPostgres
from store.migrations import upgrade
from store.tables import ModelRow
from tests.conftest import database_folder
from tests.contract.conftest import CONTEXT, VOCABULARY, Team, new_team, serving
from tests.contract.stand_ins import StandInTrainer, keep_alive, register_sampler, register_trainer
from tests.depth.many_rows import Sizes, deepen, fill_beside
from tests.depth.statements import Recorded, recorded_statements, rows_read
from tests.ports.scripted_backend import END, SamplerScript, ScriptedBackend
from wire.process.tokens import Tokens

DEPTH, SIZES = 2000, Sizes(models=2000, traces=20_000)
FEW = 600
"""Rows of a big table that a statement may read: the guard's path is 500, a page 100."""
METRICS_TOKEN = "for-scrapes"
BIG = {"models", "checkpoints", "operations", "traces", "runs", "events", "evals", "alarms", "checkpoint_names"}

LOOKUPS = {
    "a model": "/v2/models/{id}",
    "a slug": "/v2/models/resolve?model=ORG/filler-77",
    "the last segment of a slug": "/v2/models/resolve?model=filler-78",
    "a name": "/v2/models/resolve?model=filler%2079",
    "a name in OpenAI's list": "/models/filler-80",
    "a head": "/v2/models/{id}/head",
    "a page of checkpoints": "/v2/models/{id}/checkpoints?limit=50",
    "the newest checkpoints": "/v2/models/{id}/checkpoints?limit=50&newest_first=true",
    "alarms": "/v2/models/{id}/alarms",
    "scores": "/v2/models/{id}/evals",
    "runs": "/v2/runs?limit=20",
    "runs of a model": "/v2/runs?model=filler-81",
    "jobs' rollouts": "/v2/jobs/{job}/traces?limit=20",
    "rollouts": "/v2/traces?limit=20",
    "rollouts of a model": "/v2/traces?limit=20&model={id}",
    "whether all is ready": "/readyz",
}


@dataclass(frozen=True)
class Scene:
    """A service that has much, and what it asks its database."""

    team: Team
    model: dict[str, Any]
    recorded: Recorded
    connection: psycopg.Connection[Any]

    async def asks(self, cause: str, calls: Any) -> None:
        self.recorded.cause = cause
        try:
            await calls
        finally:
            self.recorded.cause = ""

    async def most_read(self) -> dict[str, tuple[int, str]]:
        """Of each cause the most rows of one big table that a statement reads, and which statement that is.

        In a thread: the server's transactions, on whose locks a statement may wait, end on this loop.
        """
        return await asyncio.to_thread(self._most_read)

    def _most_read(self) -> dict[str, tuple[int, str]]:
        most = dict[str, tuple[int, str]]()
        for one in self.recorded.distinct:
            read = rows_read(self.connection, one)
            worst = max((rows for table, rows in read.items() if table in BIG), default=0)
            most[one.cause] = max(most.get(one.cause, (0, "")), (worst, f"{read} {' '.join(one.text.split())[:400]}"))
        return most


@asynccontextmanager
async def planes(database: AsyncDatabase, url: str, folder: Path) -> AsyncIterator[tuple[str, ModelRow]]:
    """A server, and a trainer and a sampler that are none; where it is, and the base."""
    info = {"vocab_size": VOCABULARY, "context_length": CONTEXT, "architecture": "T", "dtype": "d", "num_parameters": 1}
    async with database.session() as session:
        base = ModelRow(slug="org/Tiny-Base", name="org/Tiny-Base", weights="/nowhere", info=info)
        session.add(base)
    await register_trainer(database, base.id)
    sampler = ScriptedBackend(
        SamplerScript(), SamplerInfo(VOCABULARY, CONTEXT, (END,), constrains=True), holds_all=True
    )
    timeouts, guard = Timeouts(samplers_s=0.2), GuardSettings(every_s=0.2, settle_s=0.2)
    settings = ServerSettings(
        url, f"file://{folder}/blobs", "token", timeouts=timeouts, guard=guard, metrics_token=METRICS_TOKEN
    )
    async with contextlib.AsyncExitStack() as stack:
        sampled = await stack.enter_async_context(serving(create_sampler_app(sampler, Tokens("token"))))
        await register_sampler(database, base.id, sampled)
        heart = asyncio.create_task(keep_alive(database))
        await stack.enter_async_context(StandInTrainer(database))
        yield await stack.enter_async_context(serving(create_app(settings))), base
        heart.cancel()


@pytest.fixture(scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    with database_folder() as folder, recorded_statements() as recorded:
        postgres = EmbeddedPostgres(folder / "postgres")
        upgrade(postgres.url)
        database = AsyncDatabase(postgres.url)
        dsn = psycopg_dsn(normalise_url(postgres.url))
        async with (
            planes(database, postgres.url, tmp_path_factory.mktemp("depth")) as (origin, base),
            new_team(origin, database) as team,
        ):
            model = await team.fork(str(base.id), "deep")
            await team.step(model["id"])
            with psycopg.connect(dsn, autocommit=True) as connection:
                (team_id,) = connection.execute("select team_id from models where slug = 'deep'").fetchone() or ()
                deepen(connection, uuid.UUID(model["id"]), DEPTH)
                fill_beside(connection, team_id, uuid.UUID(model["id"]), SIZES)
                yield Scene(team, model, recorded, connection)
        await database.close()
        postgres.stop()


async def test_what_is_asked_for_often_reads_few_rows(scene: Scene):
    team, model = scene.team, scene.model
    job = (await team.http.get("/v2/jobs?limit=1")).json()["items"][0]["id"]

    async def get(path: str) -> None:
        reply = await team.http.get(path.format(id=model["id"], job=job))
        assert reply.status_code == 200, reply.text

    async def chat(name: str) -> None:
        body = {"model": name, "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        await team.http.post("/chat/completions", json=body)

    for cause, path in LOOKUPS.items():
        await scene.asks(cause, get(path))

    async def scaling(path: str) -> None:
        reply = await team.http.get(f"/scaling/{path}", headers={"Authorization": f"Bearer {METRICS_TOKEN}"})
        assert reply.status_code == 200, reply.text

    await scene.asks("samplers that a base wants", scaling("samplers/org/Tiny-Base"))
    await scene.asks("runners that are wanted", scaling("runners"))
    for cause, name in {"a chat": "deep", "by a name": "Filler 5", "by a last segment": "filler-6"}.items():
        await scene.asks(cause, chat(name))
    await scene.asks("a fork", team.fork(model["id"], "another"))

    async def step_that_is_guarded() -> None:
        await team.step(model["id"])
        await asyncio.sleep(1.5)

    await scene.asks("a step", step_that_is_guarded())
    read = await scene.most_read()
    scaled = {"samplers that a base wants", "runners that are wanted"}
    assert {*LOOKUPS, *scaled, "a chat", "by a name", "a fork", "a step"} <= set(read)
    assert {cause: most for cause, most in read.items() if most[0] > FEW} == {}


async def test_the_measure_notices_what_reads_a_whole_table(scene: Scene):
    async def get() -> None:
        await scene.team.http.get("/v2/models?limit=10")

    await scene.asks("a list with a count", get())
    assert (await scene.most_read())["a list with a count"][0] >= SIZES.models
