"""Real trainer processes on one database: they share models, stop, hang, die, and come when there is work."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import func, select

from store.blobs import BlobStore
from store.catalog import ensure_base
from store.database import AsyncDatabase, Database
from store.oplog.append import append_operation, place_payload
from store.oplog.leases import LEASE_TTL_S
from store.tables import CheckpointRow, ModelLeaseRow, ModelRow, OperationRow, TeamRow, TrainerRow
from wire.conversion import to_datums
from wire.datum_payload import encode_datums
from wire.payload import encode
from wire.trajectories import Batch, Trajectory, Turn

pytestmark = pytest.mark.slow

_STEP = encode({"learning_rate": 1e-3})


class Site:
    """A database with a base and two models, and trainer processes on it."""

    def __init__(self, database: Database, url: str, base: Path, folder: Path) -> None:
        self.database, self._url, self.folder = database, url, folder
        self._trainers: list[subprocess.Popen[bytes]] = []
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

    def launch(self, *args: str) -> subprocess.Popen[bytes]:
        where = ("--data-dir", str(self.folder), "--database-url", self._url)
        command = [sys.executable, "-m", "cli", "trainer", "--base", "tiny", "--device", "cpu", *where, *args]
        with (self.folder / "trainers.log").open("ab") as log:
            self._trainers.append(subprocess.Popen(command, stdout=log, stderr=log))
        return self._trainers[-1]

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
            assert waited_s < timeout_s, (self.folder / "trainers.log").read_text()[-4000:]
            time.sleep(0.01)
        return time.monotonic() - started

    def num_ready(self) -> int:
        with self.database.session() as session:
            query = select(func.count()).where(TrainerRow.is_loading.is_(False), TrainerRow.stopped_at.is_(None))
            return session.scalar(query) or 0

    def ask(self, model_id: UUID, kind: str, payload: bytes, *, is_awaited: bool = True) -> UUID:
        async def append() -> UUID:
            database = AsyncDatabase(self._url)
            try:
                async with database.connection() as connection:
                    placed = place_payload(BlobStore(self.folder / "blobs"), payload)
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


@pytest.fixture
def site(database: Database, postgres_url: str, tiny_base: Path, tmp_path: Path) -> Iterator[Site]:
    site = Site(database, postgres_url, tiny_base, tmp_path)
    yield site
    site.close()


def batch(num_trajectories: int) -> bytes:
    """Takes seconds for a thousand trajectories, in many micro-batches under a small --max-tokens-per-pass."""
    random = np.random.default_rng(0)

    def trajectory(i: int) -> Trajectory:
        prompt, output = (random.integers(3, 15, 24).astype(np.int32) for _ in range(2))
        return Trajectory((Turn(prompt, output, np.full(24, -2.0, np.float32)),), float(i % 4))

    extra = {"loss_fn": "ppo", "loss_fn_config": {}, "num_substeps": 1}
    batch = Batch([trajectory(i) for i in range(num_trajectories)], group_size=4)
    return encode_datums(to_datums(batch), extra)


SMALL_PASSES = ("--max-tokens-per-pass", "256")


def test_a_busy_trainer_cedes_a_waiting_model_to_a_free_one(site: Site):
    site.start(*SMALL_PASSES)
    short = site.ask(site.models[1], "forward_backward", batch(4))
    site.until(lambda: site.is_done(short))
    pid = site.holder_pid(site.models[1])
    # Longer than all that follows, on any machine; nobody waits for its end.
    long = site.ask(site.models[0], "forward_backward", batch(20_000))
    site.until(lambda: site.is_running(long))
    assert site.holder_pid(site.models[0]) == pid
    site.start(*SMALL_PASSES)
    step = site.ask(site.models[1], "optim_step", _STEP)
    site.until(lambda: site.is_done(step))
    assert not site.is_done(long)
    assert site.holder_pid(site.models[1]) != pid


def test_a_pass_that_nobody_waits_for_keeps_the_trainer_from_nobody_and_changes_no_bits(site: Site):
    site.start(*SMALL_PASSES)
    # Longer than all that follows, on any machine; nobody waits for its end.
    long = site.ask(site.models[0], "forward_backward", batch(20_000), is_awaited=False)
    site.until(lambda: site.is_running(long))
    short = site.ask(site.models[1], "forward_backward", batch(4))
    took_s = site.until(lambda: site.is_done(short))
    print(f"another model's pass is done after {took_s:.1f} s")  # noqa: T201
    assert not site.is_done(long)
    site.until(lambda: site.is_running(long))
    site.ask(site.models[0], "forward_backward", batch(4))
    steps = [site.ask(model_id, "optim_step", _STEP) for model_id in site.models]
    site.until(lambda: all(site.is_done(step) for step in steps))
    assert (site.now(long).state, site.now(long).error_code) == ("superseded", "unacknowledged")
    assert site.head_files(site.models[0]) == site.head_files(site.models[1])


@pytest.mark.parametrize("small", [True, False])
def test_a_trainer_told_to_stop_hands_its_pass_to_another_at_once(site: Site, small: bool):
    stopped = site.start(*(SMALL_PASSES if small else ("--stop-grace", "0.3", "--max-tokens-per-pass", "4000000")))
    site.ask(site.models[0], "forward_backward", batch(4))
    long = site.ask(site.models[0], "forward_backward", batch(3000))
    site.until(lambda: site.is_running(long))
    site.start(*SMALL_PASSES)
    assert site.is_running(long)
    stopped.send_signal(signal.SIGTERM)
    took_s = site.until(lambda: site.holder_pid(site.models[0]) not in (stopped.pid, None))
    print(f"taken over {took_s * 1000:.0f} ms after SIGTERM")  # noqa: T201
    assert took_s < 3.0
    assert stopped.wait(5) == 0
    assert site.now(long).attempts <= 1
    site.until(lambda: site.is_done(long))
    assert site.now(long).attempts == 1


def test_a_waiting_trainer_stops_at_once(site: Site):
    trainer = site.start()
    time.sleep(0.5)
    started = time.monotonic()
    trainer.send_signal(signal.SIGTERM)
    assert site.until(lambda: site.num_ready() == 0, 5) < 1.0
    assert trainer.wait(10) == 0
    print(f"gone in {time.monotonic() - started:.2f} s")  # noqa: T201


def test_a_killed_trainers_models_are_taken_over_when_its_lease_ends(site: Site):
    killed = site.start(*SMALL_PASSES)
    short = site.ask(site.models[0], "forward_backward", batch(4))
    site.until(lambda: site.is_done(short))
    site.start(*SMALL_PASSES)
    killed.kill()
    step = site.ask(site.models[0], "optim_step", _STEP)
    took_s = site.until(lambda: site.holder_pid(site.models[0]) not in (killed.pid, None))
    print(f"taken over {took_s:.2f} s after SIGKILL")  # noqa: T201
    assert took_s < LEASE_TTL_S + 0.5
    site.until(lambda: site.is_done(step))


def test_a_trainer_that_hung_cannot_write_when_it_goes_on(site: Site):
    hung = site.start(*SMALL_PASSES)
    short = site.ask(site.models[0], "forward_backward", batch(4))
    site.until(lambda: site.is_done(short))
    long = site.ask(site.models[0], "forward_backward", batch(1000))
    site.until(lambda: site.is_running(long))
    time.sleep(0.1)
    os.kill(hung.pid, signal.SIGSTOP)
    site.start(*SMALL_PASSES)
    site.until(lambda: site.is_done(long))
    other = site.holder_pid(site.models[0])
    assert other != hung.pid
    os.kill(hung.pid, signal.SIGCONT)
    site.until(lambda: "lease_lost" in (site.folder / "trainers.log").read_text())
    step = site.ask(site.models[0], "optim_step", _STEP)
    site.until(lambda: site.is_done(step))
    assert site.holder_pid(site.models[0]) == other
    disturbed = site.head_files(site.models[0])

    for payload in (batch(4), batch(1000)):
        site.ask(site.models[1], "forward_backward", payload)
    alone = site.ask(site.models[1], "optim_step", _STEP)
    site.until(lambda: site.is_done(alone))
    assert disturbed == site.head_files(site.models[1])


def test_an_idle_trainer_ends_and_another_goes_on_with_the_same_bits(site: Site):
    for kind, payload in (("forward_backward", batch(8)), ("optim_step", _STEP)):
        operation = site.ask(site.models[0], kind, payload)
        assert site.launch("--idle-exit-seconds", "0.5").wait(90) == 0
        assert site.is_done(operation)
    site.start()
    site.ask(site.models[1], "forward_backward", batch(8))
    step = site.ask(site.models[1], "optim_step", _STEP)
    site.until(lambda: site.is_done(step))
    assert site.head_files(site.models[0]) == site.head_files(site.models[1])
