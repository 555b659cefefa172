"""A whole box whose checkpoints lie in an object store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import database_folder
from tests.e2e.box import Box
from tests.e2e.rollouts import greedy, step
from tests.e2e.test_backup import optim_step
from tests.e2e.test_training import fixed_batch
from tests.object_store import ObjectStore


@pytest.fixture
def s3_box(s3: ObjectStore, tiny_base: Path) -> Iterator[Box]:
    with database_folder() as folder:
        box = Box(folder / "data", tiny_base, "--checkpoint-store", "s3://checkpoints/box")
        yield box
        if box.process is not None:
            box.stop()


def headway(box: Box, *arguments: str) -> str:
    command = [sys.executable, "-m", "cli", *arguments, "--data-dir", str(box.data_dir)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_box_on_an_object_store_trains_rolls_back_and_needs_no_local_file(s3_box: Box, s3: ObjectStore):
    box = s3_box.start()
    assert "a-secret-of-the-tests" not in box.logs()
    copies = box.data_dir / "checkpoint-copies"
    batch = fixed_batch(box)
    model_id = box.fork("elsewhere")
    first = step(box, model_id, batch, group_size=4)
    answer = greedy(box, "elsewhere")
    second = step(box, model_id, batch, group_size=4)
    assert not (box.data_dir / "checkpoints").exists()
    assert sum(key.endswith("manifest.json") for key in s3.keys("box/")) == 2

    # Nothing is left on this machine, and the sampler has died: everything comes from the bucket.
    box.kill("sampler")
    box.kill("trainer")
    shutil.rmtree(copies)
    wait_until_served(box, "elsewhere")
    box.call("PUT", f"/v2/models/{model_id}/head", {"checkpoint_id": first["checkpoint_id"]})
    ids, logprobs = greedy(box, "elsewhere")
    assert ids == answer[0]
    assert logprobs == pytest.approx(answer[1], abs=1e-5)
    again = step(box, model_id, batch, group_size=4)
    assert states(s3, again["checkpoint_id"]) == states(s3, second["checkpoint_id"]), "the same bits, moments included"

    store = ("--checkpoint-store", "s3://checkpoints/box")
    assert "all files are as they should be" in headway(box, "verify", *store)
    headway(box, "doctor", "--files", *store)
    backup = box.data_dir / "backup"
    headway(box, "backup", "--to", str(backup), *store)
    assert len(list(backup.glob("checkpoints/*/*/state/state.safetensors"))) == 3


def wait_until_served(box: Box, slug: str) -> None:
    deadline = time.monotonic() + 180
    while True:
        try:
            greedy(box, slug)
            return
        except AssertionError as refused:
            assert "503" in str(refused), refused
            assert time.monotonic() < deadline, "the sampler did not come back"
            time.sleep(0.5)


def states(s3: ObjectStore, checkpoint_id: str) -> list[bytes]:
    keys = [key for key in s3.keys("") if checkpoint_id.replace("-", "") in key and key.endswith(".safetensors")]
    assert len(keys) == 2
    return [s3.client.get_object(Bucket=s3.bucket, Key=key)["Body"].read() for key in sorted(keys)]


@pytest.mark.slow
def test_a_service_restored_into_another_bucket_goes_on_with_the_same_bits(s3: ObjectStore, tiny_base: Path):
    with database_folder() as folder:
        here = Box(folder / "here", tiny_base, *stores(s3)).start()
        batch = fixed_batch(here)
        model_id = here.fork("moves")
        step(here, model_id, batch, group_size=4)
        here.call("POST", f"/v1/models/{model_id}/train/forward-backward", {"inputs": batch, "group_size": 4})
        headway(here, "backup", "--to", str(folder / "moved.tar"), *stores(s3))
        expected = states(s3, optim_step(here, model_id))
        answer = greedy(here, "moves")
        assert here.stop() == 0

        there = Box(folder / "there", tiny_base, *stores(s3.other))
        headway(there, "restore", "--from", str(folder / "moved.tar"), *stores(s3.other))
        headway(there, "verify", *stores(s3.other))
        headway(there, "doctor", "--files", *stores(s3.other))
        there.start()
        try:
            assert states(s3.other, optim_step(there, model_id)) == expected
            assert greedy(there, "moves")[0] == answer[0]
            assert not [each for each in ("blobs", "checkpoints") if (there.data_dir / each).exists()]
        finally:
            there.stop()


def stores(s3: ObjectStore) -> tuple[str, ...]:
    """Options of every command."""
    return "--checkpoint-store", f"s3://{s3.bucket}/moving", "--blob-store", f"s3://{s3.bucket}/moving-blobs"
