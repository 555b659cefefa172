from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio

from store.database import AsyncDatabase, Database
from store.notify import AsyncListener
from store.oplog.waiting import TROUBLE_S, WaitingCalls
from store.planes.registration import register_trainer
from store.tables import CheckpointRow, ModelRow, TeamRow


@dataclass(frozen=True)
class World:
    """A base, a team's fork of it, and two trainers."""

    base_id: UUID
    team_id: UUID
    model_id: UUID
    trainer_id: UUID
    other_trainer_id: UUID


@pytest.fixture
def world(database: Database) -> World:
    with database.session() as session:
        team = TeamRow(name="reds")
        base = ModelRow(slug="base", name="base", weights="/nowhere")
        session.add_all([team, base])
        session.flush()
        model = ModelRow(team_id=team.id, base_id=base.id, slug="fork", name="fork", lora={"rank": 4})
        session.add(model)
        session.flush()
        trainers = [register_trainer(session, base.id, {}) for _ in range(2)]
    return World(base.id, team.id, model.id, *trainers)


@pytest.fixture
def add_checkpoint(database: Database, world: World):
    def add(status: str = "committed", parent: UUID | None = None) -> UUID:
        checkpoint_id = uuid.uuid4()
        with database.session() as session:
            session.add(
                CheckpointRow(
                    id=checkpoint_id,
                    model_id=world.model_id,
                    parent_id=parent,
                    files_id=checkpoint_id,
                    files_model_id=world.model_id,
                    step=1,
                    name=f"0001-{checkpoint_id.hex[:8]}",
                    status=status,
                    manifest={},
                    metrics={},
                )
            )
        return checkpoint_id

    return add


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def kept_async_database(postgres_url: str) -> AsyncIterator[AsyncDatabase]:
    async_database = AsyncDatabase(postgres_url)
    yield async_database
    await async_database.close()


@pytest.fixture
def async_database(database: Database, kept_async_database: AsyncDatabase) -> AsyncDatabase:
    """As `database`, for a server."""
    return kept_async_database


@asynccontextmanager
async def looking_after_calls(
    database: AsyncDatabase, *, trouble_s: float = TROUBLE_S, every_s: float = 5.0
) -> AsyncIterator[WaitingCalls]:
    """As a server does it, with a listener that listens."""
    listener = AsyncListener(database.url.render_as_string(hide_password=False))
    await listener.start()
    calls = WaitingCalls(database, listener, trouble_s=trouble_s, every_s=every_s)
    calls.start()
    try:
        yield calls
    finally:
        await calls.close()
        await listener.close()


@pytest_asyncio.fixture
async def waiting_calls(async_database: AsyncDatabase) -> AsyncIterator[WaitingCalls]:
    async with looking_after_calls(async_database) as calls:
        yield calls


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
