"""The control plane as a real server on a real PostgreSQL; only trainer and sampler are stand-ins."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import tarfile
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import func, select, update

from sampler.app import create_app as create_sampler_app
from sampler.backends.base import SamplerInfo
from server.app import create_app
from server.auth.service import create_key
from server.metrics.blobs import MeasuredBlobs
from server.process.settings import GarbageCollectionSettings, GuardSettings, Limits, ServerSettings, Timeouts
from store.blob_stores.threads import THREADS_OF_BLOBS
from store.database import AsyncDatabase
from store.migrations import upgrade
from store.run_states import LIVE
from store.tables import ModelRow, OperationRow, RunRow, SamplerRow, TeamRow, TrainerRow
from tests.conftest import running_postgres
from tests.contract.stand_ins import (
    BreaksOff,
    StandInTrainer,
    keep_alive,
    register_sampler,
    register_trainer,
)
from tests.ports.scripted_backend import END, SamplerScript, ScriptedBackend
from tests.vendor import Vendor, vendor_of_models
from wire.process.http_protocol import BoundedProtocol
from wire.process.origins import http_origin
from wire.process.tls import TlsSettings
from wire.process.tokens import Tokens
from wire.process.uvicorn_tls import TlsConfig
from wire.process.websocket_protocol import WEBSOCKET_OPTIONS, QuietWebSockets

VOCABULARY = 128
CONTEXT = 512
LIMITS = Limits(
    training_body_bytes=400_000,
    batch_tokens=20_000,
    body_bytes=100_000,
    small_body_bytes=50_000,
    file_bytes=8 * 1024**2,
    environment_bytes=1_000_000,
)


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    with running_postgres() as url:
        upgrade(url)
        yield url


@pytest.fixture(scope="session")
async def database(database_url: str) -> AsyncIterator[AsyncDatabase]:
    database = AsyncDatabase(database_url)
    yield database
    await database.close()


@asynccontextmanager
async def serving(app: Any, tls: TlsSettings | None = None) -> AsyncIterator[str]:
    """The app behind a real HTTP server in this process; yields its URL."""
    tls = tls or TlsSettings()
    listening = socket.create_server(("127.0.0.1", 0))
    sockets = {"ws": QuietWebSockets, **WEBSOCKET_OPTIONS}
    options = {"http": BoundedProtocol, **sockets, "timeout_graceful_shutdown": 1}
    config = TlsConfig(app, tls=tls, log_config=None, access_log=False, lifespan="on", **options)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext
    task = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
        await asyncio.sleep(0.01)
    yield http_origin("127.0.0.1", listening.getsockname()[1], is_tls=tls.is_on)
    server.should_exit = True
    await task


@pytest.fixture(scope="session")
def sampler_script() -> SamplerScript:
    return SamplerScript()


@pytest.fixture(scope="session")
async def trainer(database: AsyncDatabase) -> AsyncIterator[StandInTrainer]:
    async with StandInTrainer(database) as trainer:
        yield trainer


def tokenizer_files() -> bytes:
    """An archive with one file."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        about = tarfile.TarInfo("tokenizer.json")
        about.size = len(b"{}")
        tar.addfile(about, io.BytesIO(b"{}"))
    return written.getvalue()


@pytest.fixture(scope="session")
async def base(
    database: AsyncDatabase, sampler_script: SamplerScript, trainer: StandInTrainer
) -> AsyncIterator[ModelRow]:
    """A base model with a live trainer and a live sampler."""
    info = {"vocab_size": VOCABULARY, "context_length": CONTEXT, "architecture": "T", "dtype": "d", "num_parameters": 1}
    async with database.session() as session:
        base = ModelRow(slug="org/Tiny-Base", name="org/Tiny-Base", weights="/nowhere", info=info)
        session.add(base)
    await register_trainer(database, base.id)
    sampler = ScriptedBackend(sampler_script, SamplerInfo(VOCABULARY, CONTEXT, (END,), constrains=True), holds_all=True)
    async with serving(BreaksOff(create_sampler_app(sampler, Tokens("token"), tokenizer=tokenizer_files))) as url:
        await register_sampler(database, base.id, url)
        heart = asyncio.create_task(keep_alive(database))
        yield base
        heart.cancel()


@asynccontextmanager
async def another_base(database: AsyncDatabase, base: ModelRow, slug: str, sampler_url: str) -> AsyncIterator[ModelRow]:
    """A base of which no other test knows, with a trainer and, at this URL, a sampler of its own."""
    async with database.session() as session:
        another = ModelRow(slug=slug, name=slug, weights="/nowhere", info=base.info)
        session.add(another)
    await register_trainer(database, another.id)
    await register_sampler(database, another.id, sampler_url)
    heart = asyncio.create_task(keep_alive(database))
    yield another
    heart.cancel()
    async with database.session() as session:
        for plane in (TrainerRow, SamplerRow):
            ends = update(plane).where(plane.base_id == another.id)
            await session.execute(ends.values(stopped_at=func.clock_timestamp()))


@pytest.fixture(scope="session")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vendor]:
    """Another vendor, whose models operators may put into the catalog."""
    with vendor_of_models(tmp_path_factory.mktemp("vendor")) as vendor:
        yield vendor


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server reads checkpoints; nobody writes there but tests about their files."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def blob_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blobs")


@pytest.fixture(scope="session")
async def origin(database_url: str, base: ModelRow, blob_folder: Path, checkpoint_folder: Path) -> AsyncIterator[str]:
    timeouts = Timeouts(operation_s=10, samplers_s=1)
    guard = GuardSettings(every_s=1.0, settle_s=0.2, retry_s=0.1, webhook_receivers=("127.0.0.1",))
    stored = GarbageCollectionSettings(f"file://{checkpoint_folder}", every_s=0)
    settings = ServerSettings(
        database_url,
        f"file://{blob_folder}",
        "token",
        limits=LIMITS,
        timeouts=timeouts,
        guard=guard,
        garbage_collection=stored,
    )
    async with serving(create_app(settings)) as url:
        yield url


@dataclass
class Team:
    """A team and its HTTP client."""

    name: str
    key: str
    http: httpx.AsyncClient

    async def fork(self, source: str, name: str | None = None) -> dict[str, Any]:
        body = {"source_model_id": source, "name": name or f"m-{uuid.uuid4().hex[:8]}"}
        reply = await self.http.post("/v2/models/fork", json=body)
        assert reply.status_code == 201, reply.text
        return reply.json()

    async def train(self, model_id: str, call: str, body: dict[str, Any]) -> httpx.Response:
        return await self.http.post(f"/v1/models/{model_id}/train/{call}", json=body)

    async def step(self, model_id: str) -> dict[str, Any]:
        (await self.train(model_id, "forward-backward", batch())).raise_for_status()
        reply = await self.train(model_id, "optim-step", {"learning_rate": 1e-3})
        assert reply.status_code == 200, reply.text
        return reply.json()


@asynccontextmanager
async def new_team(origin: str, database: AsyncDatabase) -> AsyncIterator[Team]:
    name = f"team-{uuid.uuid4().hex[:8]}"
    async with database.session() as session:
        key = await create_key(session, name, "test")
    headers = {"Authorization": f"Bearer {key}"}
    options = {"timeout": 30, "trust_env": False, "verify": False}  # loading certificates is slow
    async with httpx.AsyncClient(base_url=origin, headers=headers, **options) as http:
        yield Team(name, key, http)
    await _cancel_runs(database, name)


async def _cancel_runs(database: AsyncDatabase, team: str) -> None:
    """Servers would look after them for as long as there are tests."""
    async with database.session() as session:
        ids = select(TeamRow.id).where(TeamRow.name == team)
        alive = RunRow.state.in_(LIVE), RunRow.team_id.in_(ids)
        await session.execute(update(RunRow).where(*alive).values(state="cancelling"))


@pytest.fixture
async def team(origin: str, database: AsyncDatabase) -> AsyncIterator[Team]:
    async with new_team(origin, database) as team:
        yield team


@pytest.fixture
async def other_team(origin: str, database: AsyncDatabase) -> AsyncIterator[Team]:
    async with new_team(origin, database) as team:
        yield team


@pytest.fixture
async def model(team: Team, base: ModelRow) -> dict[str, Any]:
    """A fork of the base."""
    return await team.fork(str(base.id))


@pytest.fixture(scope="session")
async def standing_team(origin: str, database: AsyncDatabase) -> AsyncIterator[Team]:
    """A team for the many tests that change nothing."""
    async with new_team(origin, database) as team:
        yield team


@pytest.fixture(scope="session")
async def standing_model(standing_team: Team, base: ModelRow) -> dict[str, Any]:
    """A fork on which no operation is ever accepted."""
    return await standing_team.fork(str(base.id))


@pytest.fixture(autouse=True)
def fresh_script(sampler_script: SamplerScript) -> None:
    sampler_script.__init__()


def sample(**changes: Any) -> dict[str, Any]:
    return {"prompt_token_ids": [1, 2], "output_token_ids": [7, 9], "output_logprobs": [-0.2, -1.1], **changes}


def trajectory(**changes: Any) -> dict[str, Any]:
    return {"samples": [sample()], "reward": 1.0, **changes}


def batch(*inputs: Any, **changes: Any) -> dict[str, Any]:
    return {"inputs": list(inputs) or [trajectory(), trajectory(reward=0.0)], **changes}


async def num_operations(database: AsyncDatabase, model_id: str) -> int:
    async with database.session() as session:
        query = select(func.count()).select_from(OperationRow).where(OperationRow.model_id == uuid.UUID(model_id))
        return await session.scalar(query) or 0


@pytest.fixture(scope="session", autouse=True)
def no_blob_call_outside_its_threads() -> Iterator[None]:
    """A server's blobs may be in a bucket: whoever calls them on its loop stops every request meanwhile, and whoever
    does in asyncio's threads stops what else needs these."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("put", "get", "has", "open", "draft", "check", "remove_older"):
            patch.setattr(MeasuredBlobs, name, _in_its_threads(getattr(MeasuredBlobs, name)))
        yield


def _in_its_threads(method: Callable[..., Any]) -> Callable[..., Any]:
    def called(*args: Any) -> Any:
        if threading.current_thread().name.startswith(THREADS_OF_BLOBS):
            return method(*args)
        raise AssertionError(f"{method.__name__} of a blob store was called outside its threads")

    return called
