"""Pictures of a batch, from the blob store to the engine."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import numpy as np
import pytest

from store.blob_stores.file import FileBlobStore
from store.oplog.append import Appended, append_operation, place_payload
from store.rollouts import NewSample, TraceRecord, record
from store.rollouts.trainer_logprobs import read_trainer_logprobs
from store.tables import OperationRow
from tests.unit.planes.test_troubles import try_again
from tests.unit.planes.test_worker import Trainer, expire_leases, trainer
from wire.conversion import to_datums
from wire.datum_payload import encode_datums
from wire.extension import Media
from wire.trajectories import Batch, Trajectory, Turn

__all__ = ["trainer"]

ONE, OTHER = b"one picture", b"another picture"
CALL = {"loss_fn": "ppo", "loss_fn_config": {}, "num_substeps": 1}


def digest(picture: bytes) -> bytes:
    return hashlib.sha256(picture).digest()


def shown(*pictures: bytes) -> Turn:
    """A turn whose prompt is pictures of two tokens each."""
    media = [Media(2 * number, 2, digest(picture), 8, 16) for number, picture in enumerate(pictures)]
    ids = np.full(2 * len(pictures), 7, np.int32)
    return Turn(ids, np.array([2], np.int32), np.array([-1.0], np.float32), tuple(media))


def payload(*turns: Turn) -> bytes:
    return encode_datums(to_datums(Batch([Trajectory((turn,), 1.0) for turn in turns])), CALL)


async def batch_of(trainer: Trainer, *turns: Turn, kind: str = "forward_backward") -> Appended:
    return await trainer.ask(kind, payload(*turns))


def blob_of(trainer: Trainer, picture: bytes) -> Path:
    (found,) = (trainer.folder / "blobs").glob(f"*/{hashlib.sha256(picture).hexdigest()}")
    return found


@pytest.fixture(autouse=True)
def stored(trainer: Trainer) -> None:
    blobs = FileBlobStore(trainer.folder / "blobs")
    for picture in (ONE, OTHER):
        blobs.put(picture)


async def test_a_pass_is_given_each_picture_of_its_batch_once(trainer: Trainer) -> None:
    await batch_of(trainer, shown(ONE), shown(OTHER, ONE))
    await batch_of(trainer, shown(OTHER))
    await trainer.pass_of(1.0)
    trainer.work()
    assert trainer.engine.pictures == [
        {digest(ONE): ONE, digest(OTHER): OTHER},
        {digest(OTHER): OTHER},
        {},
    ]


async def test_a_replay_is_given_the_same_pictures(trainer: Trainer) -> None:
    await batch_of(trainer, shown(ONE))
    trainer.work()
    expire_leases(trainer.database)
    trainer.restart(trainer.world.other_trainer_id)
    await trainer.step()
    trainer.work()
    assert trainer.engine.pictures == [{digest(ONE): ONE}]
    assert trainer.served_weights() == 1.0


@pytest.mark.parametrize("returns_logprobs", [True, False])
async def test_a_forward_is_given_its_pictures(trainer: Trainer, monkeypatch, returns_logprobs: bool) -> None:
    given = []
    name = "evaluate" if returns_logprobs else "forward"
    monkeypatch.setattr(trainer.engine, name, lambda *arguments: given.append(arguments[-1]) or 1 / 0, raising=False)
    datums = to_datums(Batch([Trajectory((shown(ONE),), 1.0)]))
    await trainer.ask("forward", encode_datums(datums, {**CALL, "returns_logprobs": returns_logprobs}))
    trainer.work()
    assert given == [{digest(ONE): ONE}]


@pytest.mark.parametrize("spoil", [lambda blob: blob.write_bytes(OTHER), lambda blob: blob.unlink()])
async def test_a_picture_that_was_swapped_holds_its_operation_up_by_name(trainer: Trainer, spoil) -> None:
    """Nothing is accumulated; when the file is back, the operation goes on."""
    blob = blob_of(trainer, ONE)
    spoil(blob)
    asked = await batch_of(trainer, shown(OTHER), shown(ONE))
    trainer.work()
    waiting = trainer.now(asked)
    assert waiting.state == "queued"
    assert f"a picture of this batch cannot be read: blob {blob.name}" in (waiting.retry_reason or "")
    assert trainer.engine.passes == 0
    assert not any(trainer.engine.gradients.values())
    blob.write_bytes(ONE)
    await trainer.step()
    try_again(trainer)
    assert trainer.now(asked).state == "done"
    assert trainer.served_weights() == 1.0


async def test_a_payload_in_which_a_picture_was_swapped_for_another_holds_its_operation_up(trainer: Trainer) -> None:
    """The other one is there, and has as many tokens: only the log says which it was."""
    blobs, model_id = FileBlobStore(trainer.folder / "blobs"), trainer.world.model_id
    logged, swapped = payload(shown(ONE)), payload(shown(OTHER))
    async with trainer.async_database.connection() as connection:
        placed = place_payload(blobs, logged)
        asked = await append_operation(
            connection, model_id=model_id, kind="forward_backward", idempotency_key="key", **placed
        )
    with trainer.database.session() as session:
        session.get_one(OperationRow, asked.id).payload = swapped
    trainer.work()
    waiting = trainer.now(asked)
    assert waiting.state == "queued"
    assert "has other pictures than were logged with it" in (waiting.retry_reason or "")
    assert trainer.engine.passes == 0
    with trainer.database.session() as session:
        session.get_one(OperationRow, asked.id).payload = logged
    try_again(trainer)
    assert trainer.engine.pictures == [{digest(ONE): ONE}]


async def test_what_a_pass_made_of_a_picture_is_kept_for_the_sample_that_showed_it(trainer: Trainer) -> None:
    """Of two samples with equal ids, that of the other picture gets nothing."""
    trace_ids, team_id = [uuid.uuid4(), uuid.uuid4()], trainer.world.team_id
    recorded = zip(trace_ids, (ONE, OTHER), strict=True)
    records = [TraceRecord(team_id, each, [NewSample(team_id, each, shown(picture))]) for each, picture in recorded]
    await record(trainer.async_database, FileBlobStore(trainer.folder / "blobs"), records)
    trainer.engine.logprobs = [np.array([-2.5], np.float32), np.array([-3.5], np.float32)]
    trajectories = [Trajectory((shown(ONE),), 1.0, trace_id.hex) for trace_id in trace_ids]
    await trainer.ask("forward_backward", encode_datums(to_datums(Batch(trajectories)), CALL))
    trainer.work()
    trainer.keeper.close()
    async with trainer.async_database.connection() as connection:
        found = await read_trainer_logprobs(connection, team_id, trace_ids)
    assert [kept.logprobs.tolist() for kept in found[trace_ids[0]].values()] == [[-2.5]]
    assert not found.get(trace_ids[1])
