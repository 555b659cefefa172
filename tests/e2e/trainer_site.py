"""Trainer processes on one database, without a server or samplers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import numpy as np
from sqlalchemy import func, select

from cli.box.children import Process
from store.blob_stores.file import FileBlobStore
from store.catalog import ensure_base
from store.database import AsyncDatabase, Database
from store.oplog.append import append_operation, place_payload
from store.tables import CheckpointRow, ModelLeaseRow, ModelRow, OperationRow, TeamRow, TrainerRow
from tests.e2e.forked_up import fork_headway
from wire.conversion import to_datums
from wire.datum_payload import encode_datums
from wire.payload import encode
from wire.trajectories import Batch, Trajectory, Turn

STEP = encode({"learning_rate": 1e-3})
SMALL_PASSES = ("--max-tokens-per-pass", "256")


class Site:
    """A database with a base and two models, and trainer processes on it."""

    def __init__(self, database: Database, url: str, base: Path, folder: Path) -> None:
        self.database, self.url, self.folder = database, url, folder
        self._log, self._where = folder / "trainers.log", ("--data-dir", str(folder), "--database-url", url)
        self._trainers: list[Process] = []
        with database.session() as session:
            self.base_id = ensure_base(session, "tiny", str(base))
            team = TeamRow(name="reds")
            session.add(team)
            session.flush()
            lora = {"rank": 4, "alpha": 8, "init_seed": 0}
            rows = [ModelRow(team_id=team.id, base_id=self.base_id, slug=s, name=s, lora=lora) for s in ("one", "two")]
            session.add_all(rows)
            session.flush()
            self.models = [row.id for row in rows]

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        before = self.num_ready()
        process = self.launch(*args)
        self.until(lambda: self.num_ready() > before)
        return process

    def fork(self, *args: str) -> Process:
        """As `start`, from a process that has imported everything."""
        before = self.num_ready()
        command = [sys.executable, "-m", "cli", "trainer", "--base", "tiny", "--device", "cpu", *self._where, *args]
        with self._log.open("ab") as log:
            process = fork_headway(command, os.environ, log.fileno())
        self._trainers.append(process)
        self.until(lambda: self.num_ready() > before)
        return process

    def launch(self, *args: str, command: Sequence[str] = ("-m", "cli", "trainer")) -> subprocess.Popen[bytes]:
        return self.launch_as([sys.executable, *command, "--base", "tiny", "--device", "cpu"], None, *args)

    def launch_as(
        self, command: Sequence[str], environment: Mapping[str, str] | None, *args: str
    ) -> subprocess.Popen[bytes]:
        """A command line that names base and device itself."""
        with self._log.open("ab") as log:
            trainer = subprocess.Popen([*command, *self._where, *args], stdout=log, stderr=log, env=environment)
        self._trainers.append(trainer)
        return trainer

    def close(self) -> None:
        for process in self._trainers:
            if process.poll() is None:
                process.kill()
                process.wait()

    def until(self, holds: Callable[[], bool], timeout_s: float = 90.0) -> float:
        """Seconds until it holds."""
        started = time.monotonic()
        while not holds():
            waited_s = time.monotonic() - started
            assert waited_s < timeout_s, self.log()[-4000:]
            time.sleep(0.01)
        return time.monotonic() - started

    def log(self) -> str:
        """Of all trainers."""
        return self._log.read_text()

    def num_ready(self) -> int:
        with self.database.session() as session:
            query = select(func.count()).where(TrainerRow.is_loading.is_(False), TrainerRow.stopped_at.is_(None))
            return session.scalar(query) or 0

    def ask(self, model_id: UUID, kind: str, payload: bytes, *, is_awaited: bool = True) -> UUID:
        async def append() -> UUID:
            database = AsyncDatabase(self.url)
            try:
                async with database.connection() as connection:
                    placed = place_payload(FileBlobStore(self.folder / "blobs"), payload)
                    return (await append_operation(connection, model_id=model_id, kind=kind, **placed)).id
            finally:
                await database.close()

        operation_id = asyncio.run(append())
        if is_awaited:
            with self.database.session() as session:  # as a caller who takes each answer
                session.get_one(OperationRow, operation_id).answered_at = func.clock_timestamp()
        return operation_id

    def now(self, operation_id: UUID) -> OperationRow:
        with self.database.session() as session:
            return session.get_one(OperationRow, operation_id)

    def is_done(self, operation_id: UUID) -> bool:
        row = self.now(operation_id)
        assert row.state != "failed", row.error_message
        return row.state == "done"

    def is_running(self, operation_id: UUID) -> bool:
        return self.now(operation_id).state == "running"

    def holder_pid(self, model_id: UUID) -> int | None:
        with self.database.session() as session:
            query = select(TrainerRow.pid).join(ModelLeaseRow, ModelLeaseRow.trainer_id == TrainerRow.id)
            return session.scalar(query.where(ModelLeaseRow.model_id == model_id))

    def head_files(self, model_id: UUID) -> dict[str, str]:
        with self.database.session() as session:
            head_id = session.get_one(ModelRow, model_id).head_checkpoint_id
            manifest = session.get_one(CheckpointRow, head_id).manifest
        return {path: file["sha256"] for path, file in manifest["files"].items()}


def batch(num_trajectories: int) -> bytes:
    """Takes seconds for a thousand trajectories, in many micro-batches under a small --max-tokens-per-pass."""
    random = np.random.default_rng(0)

    def trajectory(i: int) -> Trajectory:
        prompt, output = (random.integers(3, 15, 24).astype(np.int32) for _ in range(2))
        return Trajectory((Turn(prompt, output, np.full(24, -2.0, np.float32)),), float(i % 4))

    extra = {"loss_fn": "ppo", "loss_fn_config": {}, "num_substeps": 1}
    batch = Batch([trajectory(i) for i in range(num_trajectories)], group_size=4)
    return encode_datums(to_datums(batch), extra)
