"""A service without processes: rows, files and blobs as trainers and servers leave them."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import func, select, update

from store.blob_stores import BlobStore
from store.checkpoint_stores import CheckpointStore
from store.database import Database, normalise_url, psycopg_dsn
from store.migrations import upgrade
from store.oplog import leases
from store.retention.collecting import Collector, Removal
from store.retention.policy import RetentionPolicy
from store.tables import CheckpointRow, ModelRow, OperationRow
from tests.ports.blob_places import blob_place_beside
from tests.ports.checkpoint_places import Place, place_maker
from tests.unit.conftest import World

DAY_S = 24 * 3600.0


@dataclass
class Estate:
    """A model's tree with files, and its log."""

    database: Database
    world: World
    folder: Path
    place: Place

    def __post_init__(self) -> None:
        self.blob_place = blob_place_beside(self.place, self.folder)

    @property
    def checkpoints(self) -> CheckpointStore:
        return self.place.open()

    @property
    def blobs(self) -> BlobStore:
        return self.blob_place.open()

    def publish(self, checkpoint_id: UUID, content: bytes = b"weights") -> dict[str, Any]:
        with self.checkpoints.stage(self.world.model_id, checkpoint_id) as staged:
            (staged / "adapter" / "adapter_model.safetensors").write_bytes(content)
            (staged / "state" / "state.safetensors").write_bytes(b"moments of " + content)
            return self.checkpoints.publish(self.world.model_id, checkpoint_id, staged).to_json()

    def step(self) -> UUID:
        """A gradient and the step that consumed it: a new head."""
        with self.database.session() as session:
            model = session.get_one(ModelRow, self.world.model_id)
            parent = session.get(CheckpointRow, model.head_checkpoint_id) if model.head_checkpoint_id else None
        checkpoint_id, step = uuid.uuid4(), parent.step + 1 if parent else 1
        manifest = self.publish(checkpoint_id, f"weights {step}".encode())
        gradient = self.operation("forward_backward", state="done", summary={}, result=b"x")
        consumer = self.operation("optim_step", state="done", result=b"x")
        with self.database.session() as session:
            session.get_one(OperationRow, gradient).consumed_by_id = consumer
            session.add(
                CheckpointRow(
                    id=checkpoint_id,
                    model_id=self.world.model_id,
                    parent_id=parent.id if parent else None,
                    files_id=checkpoint_id,
                    files_model_id=self.world.model_id,
                    step=step,
                    name=f"{step:04d}-{checkpoint_id.hex[:8]}",
                    status="committed",
                    manifest=manifest,
                    metrics={},
                    committed_at=func.clock_timestamp(),
                )
            )
            session.flush()
            model = session.get_one(ModelRow, self.world.model_id)
            model.head_checkpoint_id, model.head_version = checkpoint_id, model.head_version + 1
        return checkpoint_id

    def steps(self, count: int) -> list[UUID]:
        return [self.step() for _ in range(count)]

    def operation(self, kind: str, **values: Any) -> UUID:
        if values.get("state") in ("done", "failed"):
            values.setdefault("finished_at", func.clock_timestamp())
        if "payload_blob" not in values:
            values.setdefault("payload", b"x")
        with self.database.session() as session:
            model = session.get_one(ModelRow, self.world.model_id, with_for_update=True)
            values.setdefault("head_version", model.head_version)
            row = OperationRow(model_id=model.id, sequence=model.next_sequence, kind=kind, **values)
            model.next_sequence += 1
            session.add(row)
            session.flush()
            return row.id

    def fork(self, source: UUID, name: str = "other") -> UUID:
        """A root that references a node's files."""
        with self.database.session() as session:
            node = session.get_one(CheckpointRow, source)
            model = ModelRow(
                team_id=self.world.team_id,
                base_id=self.world.base_id,
                forked_from_id=self.world.model_id,
                slug=name,
                name=name,
                lora={"rank": 4},
            )
            session.add(model)
            session.flush()
            root = CheckpointRow(
                model_id=model.id,
                files_id=node.files_id,
                files_model_id=node.files_model_id,
                step=0,
                name="0000-root",
                status="committed",
                manifest=node.manifest,
                metrics={},
                state_removed_at=node.state_removed_at,
            )
            session.add(root)
            session.flush()
            model.head_checkpoint_id = root.id
            return root.id

    def set_head(self, checkpoint_id: UUID | None) -> None:
        values = {"head_checkpoint_id": checkpoint_id, "head_version": ModelRow.head_version + 1}
        with self.database.session() as session:
            session.execute(update(ModelRow).where(ModelRow.id == self.world.model_id).values(values))

    def lease(self) -> int:
        with self.database.session() as session:
            token = leases.acquire(session, self.world.trainer_id, self.world.model_id)
        assert token is not None
        return token

    def row(self, checkpoint_id: UUID) -> CheckpointRow:
        with self.database.session() as session:
            return session.get_one(CheckpointRow, checkpoint_id)

    def with_state(self) -> set[UUID]:
        return {stored.checkpoint for stored in self.checkpoints.stored() if stored.has_state}

    def with_files(self) -> set[UUID]:
        return {stored.checkpoint for stored in self.checkpoints.stored()}

    def marked(self) -> set[UUID]:
        with self.database.session() as session:
            return set(session.scalars(select(CheckpointRow.id).where(CheckpointRow.state_removed_at.is_not(None))))

    def path(self, checkpoint_id: UUID, file: str) -> Any:
        return self.place.path(f"{self.world.model_id.hex}/{checkpoint_id.hex}/{file}")

    def age_operations(self, by_s: float = 2 * DAY_S) -> None:
        past = func.clock_timestamp() - timedelta(seconds=by_s)
        with self.database.session() as session:
            session.execute(update(OperationRow).values(finished_at=past, created_at=past))

    def age_files(self, by_s: float = 2 * DAY_S) -> None:
        self.place.age(by_s)
        self.blob_place.age(by_s)
        past = time.time() - by_s
        for path in self.folder.rglob("*"):
            os.utime(path, (past, past))

    def collect(self, dry_run: bool = False, strangers: bool = False, **policy: Any) -> list[Removal]:
        settings = RetentionPolicy(**{"keep_last_states": 2, "keep_every_states": 0, **policy})
        collector = Collector(self.database, self.blobs, self.checkpoints, settings)
        return collector.collect(dry_run=dry_run, strangers=strangers)


@pytest.fixture
def place_kind() -> str:
    """Where checkpoints lie; a module that is about that overrides it, with both."""
    return "file"


@pytest.fixture
def make_place(place_kind: str, request: pytest.FixtureRequest) -> Callable[[Path], Place]:
    """A checkpoint store with nothing in it, which belongs to this folder."""
    return place_maker(place_kind, request)


@pytest.fixture
def estate(database: Database, world: World, tmp_path: Path, make_place: Callable[[Path], Place]) -> Estate:
    return Estate(database, world, tmp_path, make_place(tmp_path))


@contextmanager
def new_database(server_url: str, *, template: str = "template1") -> Iterator[str]:
    """The URL of another database of a server, which goes again."""
    name, dsn = f"other_{uuid.uuid4().hex[:8]}", psycopg_dsn(normalise_url(server_url))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"create database {name} template {template}".encode())
    yield normalise_url(server_url).set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)".encode())


@pytest.fixture(scope="session")
def schema_without_rows(postgres_url: str) -> Iterator[str]:
    """The name of a database that nobody connects to, for others to be copies of."""
    with new_database(postgres_url) as url:
        upgrade(url)
        yield normalise_url(url).database


@pytest.fixture
def other_database(postgres_url: str, schema_without_rows: str) -> Iterator[Database]:
    """Another database without rows, as on another machine."""
    with new_database(postgres_url, template=schema_without_rows) as url:
        other = Database(url)
        yield other
        other.close()


@pytest.fixture
def empty_database(postgres_url: str) -> Iterator[Database]:
    """Another one, which has no schema either."""
    with new_database(postgres_url) as url:
        empty = Database(url)
        yield empty
        empty.close()
