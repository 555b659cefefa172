"""A trainer whose blobs lie in a bucket, which goes away while it works."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import select

from store.blob_stores.copies import BlobCopies
from store.blob_stores.s3 import S3BlobStore
from store.checkpoint_stores.file import FileCheckpointStore
from store.database import AsyncDatabase, Database
from store.invariants import check_all
from store.object_store.bucket import Bucket, connect
from store.oplog.append import Appended, append_operation
from store.tables import OperationRow
from tests.flaky_proxy import FlakyProxy, flaky_proxy
from tests.object_store import ObjectStore
from tests.unit.conftest import World
from tests.unit.planes.test_troubles import try_again
from tests.unit.planes.test_worker import TURN, Trainer, expire_leases
from trainer.worker.loop import Worker, WorkerSettings
from wire.conversion import to_datums
from wire.datum_payload import encode_datums
from wire.payload import decode
from wire.trajectories import Batch, Trajectory


class BucketTrainer(Trainer):
    """It asks a bucket once, and keeps no copies."""

    proxy: FlakyProxy
    store: ObjectStore

    def restart(self, trainer_id: UUID) -> None:
        super().restart(trainer_id)
        copies = BlobCopies(self.folder / f"copies-{uuid.uuid4().hex}", 2**30)
        prefix = self.world.model_id.hex
        self.blobs = S3BlobStore(Bucket(self.store.bucket, prefix, connect(max_attempts=1), of="blob"), copies)
        settings = WorkerSettings(self.world.base_id, trainer_id)
        checkpoints = FileCheckpointStore(self.folder / "checkpoints")
        self.worker = Worker(self.database, self.blobs, checkpoints, self.engine, settings)

    async def large_pass(self, reward: float, *, returns_logprobs: bool = False) -> Appended:
        """One whose payload is a blob."""
        extra = {"loss_fn": "ppo", "loss_fn_config": {}, "num_substeps": 1, "returns_logprobs": returns_logprobs}
        blob = self.blobs.put(encode_datums(to_datums(Batch([Trajectory((TURN,), reward)])), extra))
        values = {"model_id": self.world.model_id, "kind": "forward_backward", "idempotency_key": uuid.uuid4().hex}
        async with self.async_database.connection() as connection:
            return await append_operation(connection, payload_blob=blob, **values)

    def is_sound(self) -> bool:
        with self.database.session() as session:
            return not check_all(session)


@pytest.fixture
def trainer(
    database: Database,
    async_database: AsyncDatabase,
    world: World,
    tmp_path: Path,
    s3: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[BucketTrainer]:
    with flaky_proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        BucketTrainer.store, BucketTrainer.proxy = s3, proxy
        yield BucketTrainer(database, async_database, world, tmp_path)


async def expect_deferral(trainer: BucketTrainer, asked: Appended) -> None:
    trainer.work()
    try_again(trainer)
    row = trainer.now(asked)
    assert (row.state, row.error_code, row.faults, row.deferrals) == ("queued", None, 0, 2)
    assert "the blob store s3://" in (row.retry_reason or "")


async def test_a_pass_waits_for_the_bucket_that_has_its_payload(trainer: BucketTrainer):
    asked = await trainer.large_pass(5.0)
    trainer.proxy.trouble = lambda method, path: "slow down" if method == "GET" else None
    await expect_deferral(trainer, asked)
    assert trainer.engine.passes == 0
    trainer.proxy.trouble = lambda method, path: None
    try_again(trainer)
    await trainer.step()
    trainer.work()
    assert (trainer.now(asked).state, trainer.served_weights(), trainer.engine.passes) == ("done", 5.0, 1)
    assert trainer.is_sound()


async def test_a_pass_whose_result_the_bucket_did_not_take_counts_once(trainer: BucketTrainer):
    trainer.engine.logprobs = [np.random.default_rng(0).random(100_000, np.float32)]
    asked = await trainer.large_pass(5.0, returns_logprobs=True)
    trainer.proxy.trouble = lambda method, path: "slow down" if method == "PUT" else None
    await expect_deferral(trainer, asked)
    trainer.proxy.trouble = lambda method, path: None
    try_again(trainer)
    await trainer.step()
    trainer.work()
    assert trainer.served_weights() == 5.0, "what it computed before its result was written is not in the gradient"
    row = trainer.now(asked)
    assert row.result_blob is not None
    _, arrays = decode(trainer.blobs.get(row.result_blob))
    assert np.array_equal(arrays["logprobs"], trainer.engine.logprobs[0])
    assert trainer.is_sound()


async def test_a_step_waits_for_the_bucket_that_has_what_is_to_be_replayed(trainer: BucketTrainer):
    await trainer.large_pass(1.0)
    await trainer.large_pass(10.0)
    trainer.work()
    expire_leases(trainer.database)
    trainer.restart(trainer.world.other_trainer_id)
    step = await trainer.step()
    trainer.proxy.trouble = lambda method, path: "slow down"
    await expect_deferral(trainer, step)
    trainer.proxy.trouble = lambda method, path: None
    try_again(trainer)
    assert (trainer.now(step).state, trainer.served_weights()) == ("done", 11.0)
    with trainer.database.session() as session:
        assert set(session.scalars(select(OperationRow.state))) == {"done"}
    assert trainer.is_sound()
