"""Wall clocks that jump: who may write is decided by PostgreSQL's clock and by tokens, waits by monotonic clocks."""

from __future__ import annotations

import ast
import asyncio
import time
from pathlib import Path

import pytest

from store.database import AsyncDatabase, Database
from store.oplog import leases
from tests.rules import PACKAGES
from tests.unit.conftest import World
from tests.unit.planes.test_worker import Trainer
from trainer.worker.lease_keeper import LeaseKeeper

WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
AGES_AND_LABELS = {
    "cli/doctor/buckets.py": "how far this machine's clock is from a bucket's",
    "cli/doctor/calling.py": "how far this machine's clock is from a server's",
    "cli/doctor/clocks.py": "how far this machine's clock is from others",
    "cli/doctor/database.py": "how far this machine's clock is from PostgreSQL's",
    "server/protocols/openai/replies.py": "`created` of an answer",
    "server/protocols/openai/responses/replies.py": "`created_at` and `completed_at` of an answer",
    "server/pages/team/new_keys.py": "the day on which a key ends that was asked for in days",
    "server/principals/quotas.py": "how long until a quota begins anew, in a sentence",
    "server/team/service.py": "when a quota begins anew, for people to read",
    "server/rollouts/imported_lines.py": "when a rollout ended whose line does not say",
    "runner/environments/local.py": "age of what is kept, for its removal",
    "store/backup/writing.py": "when a backup was begun",
    "store/blob_stores/copies.py": "age of what a dead process left, for its removal",
    "store/blob_stores/file.py": "age of a file, for the collector",
    "store/checkpoint_stores/file.py": "age of a folder, for the collector",
    "store/database_clock.py": "the order of answers in the instant before PostgreSQL's clock was asked",
    "store/object_store/bucket.py": "age of an object whose store does not say what its clock shows",
    "trainer/distributed/last_words.py": "when a rank failed, for torchrun's summary",
}
DAY_S = 86_400.0
TTL_S = 0.6


def reads_a_wall_clock(path: Path) -> bool:
    nodes = ast.walk(ast.parse(path.read_text()))
    return any(isinstance(node, ast.Attribute) and ast.unparse(node) in WALL_CLOCKS for node in nodes)


def test_no_process_asks_its_own_wall_clock_who_may_write():
    files = [path for package in PACKAGES for path in Path(package).rglob("*.py")]
    assert {path.as_posix() for path in files if reads_a_wall_clock(path)} == set(AGES_AND_LABELS)


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
async def test_a_trainer_whose_clock_jumps_keeps_its_lease_and_finishes(
    database: Database,
    async_database: AsyncDatabase,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    jump_s: float,
):
    trainer = Trainer(database, async_database, world, tmp_path)
    await trainer.pass_of(5.0)
    with database.session() as session:
        token = leases.acquire(session, world.trainer_id, world.model_id, TTL_S)
    assert token is not None
    keeper = LeaseKeeper(database, world.trainer_id, TTL_S)
    try:
        right, right_ns = time.time, time.time_ns
        monkeypatch.setattr(time, "time", lambda: right() + jump_s)
        monkeypatch.setattr(time, "time_ns", lambda: right_ns() + int(jump_s * 1e9))
        until = time.monotonic() + 3 * TTL_S
        while time.monotonic() < until:
            with database.session() as session:
                assert leases.acquire(session, world.other_trainer_id, world.model_id) is None
            await asyncio.sleep(TTL_S / 6)
        step = await trainer.step()
        trainer.work()
    finally:
        keeper.close()
    assert trainer.now(step).state == "done"
    assert trainer.served_weights() == 5.0
