"""What every checkpoint store does: one suite for files and for S3. What only a bucket can suffer is in
`tests/unit/store/test_s3.py`."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from uuid import UUID

import pytest

from store.checkpoint_stores import CheckpointStore, Manifest, open_checkpoint_store
from store.checkpoint_stores.base import FileProblem, StoredCheckpoint
from tests.ports.checkpoint_places import KINDS, Place, place_maker
from wire.errors import CorruptCheckpoint

MODEL, CHECKPOINT = uuid.uuid4(), uuid.uuid4()
WEIGHTS, MOMENTS = "adapter/adapter_model.safetensors", "state/state.safetensors"
PARTS = ("adapter", "state")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_maker(request.param, request)(tmp_path)


@pytest.fixture
def store(place: Place) -> CheckpointStore:
    return place.open()


def publish(store: CheckpointStore, weights: bytes = b"weights", checkpoint: UUID = CHECKPOINT) -> Manifest:
    with store.stage(MODEL, checkpoint) as staged:
        (staged / WEIGHTS).write_bytes(weights)
        (staged / MOMENTS).write_bytes(b"moments")
        return store.publish(MODEL, checkpoint, staged)


def test_a_published_checkpoint_is_fetched_whole(store: CheckpointStore, place: Place):
    publish(store)
    for reader in (store, place.open()):
        files = reader.fetch(MODEL, CHECKPOINT)
        assert (files.adapter / "adapter_model.safetensors").read_bytes() == b"weights"
        assert files.state is not None
        assert (files.state / "state.safetensors").read_bytes() == b"moments"
        reader.release(MODEL, CHECKPOINT)


def test_what_was_staged_and_not_published_leaves_nothing(store: CheckpointStore, place: Place, tmp_path: Path):
    with store.stage(MODEL, CHECKPOINT) as staged:
        (staged / "adapter" / "x").write_bytes(b"half")
    assert not [p for p in tmp_path.rglob("x") if p.is_file()]
    assert place.names() == []
    with pytest.raises(CorruptCheckpoint, match="missing"):
        store.fetch(MODEL, CHECKPOINT)


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "state/state.safetensors", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "remove", "truncate"])
def test_harm_to_any_file_is_found_at_load(store: CheckpointStore, place: Place, name: str, harm: str):
    publish(store)
    path = place.path(f"{MODEL.hex}/{CHECKPOINT.hex}/{name}")
    data = path.read_bytes()
    path.unlink()
    if harm != "remove":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:] if harm == "flip" else data[:-1])
    with pytest.raises(CorruptCheckpoint):
        place.open().fetch(MODEL, CHECKPOINT)


def test_a_manifest_that_points_outside_of_its_checkpoint_is_refused(store: CheckpointStore, place: Place):
    publish(store)
    path = place.path(f"{MODEL.hex}/{CHECKPOINT.hex}/manifest.json")
    path.write_bytes(path.read_bytes().replace(b"adapter/adapter_model", b"adapter/../../../x"))
    with pytest.raises(CorruptCheckpoint, match="outside"):
        place.open().fetch(MODEL, CHECKPOINT)


def test_samplers_do_not_read_the_optimizer_state(store: CheckpointStore, place: Place):
    publish(store)
    place.path(f"{MODEL.hex}/{CHECKPOINT.hex}/state/state.safetensors").unlink()
    assert place.open().fetch(MODEL, CHECKPOINT, state=False).state is None


def test_a_checkpoint_is_never_published_twice(store: CheckpointStore, place: Place):
    publish(store)
    before = place.names()
    with pytest.raises(OSError):
        publish(store)
    assert place.names() == before


def test_a_part_and_then_the_rest_are_removed_and_their_bytes_counted(store: CheckpointStore, place: Place):
    publish(store)
    assert [stored.has_state for stored in store.stored()] == [True]
    assert store.remove(MODEL, CHECKPOINT, "state") == len(b"moments")
    assert store.remove(MODEL, CHECKPOINT, "state") == 0
    assert [stored.has_state for stored in store.stored()] == [False]
    with pytest.raises(CorruptCheckpoint, match="missing"):
        store.fetch(MODEL, CHECKPOINT)
    assert store.fetch(MODEL, CHECKPOINT, state=False).state is None
    store.release(MODEL, CHECKPOINT)
    assert store.remove(MODEL, CHECKPOINT) > len(b"weights")
    assert store.remove(MODEL, CHECKPOINT) == 0
    assert not list(store.stored())
    assert not list(store.left_over())
    assert place.names() == []


def test_unknown_store_schemes_are_refused():
    with pytest.raises(ValueError, match="no checkpoint store for ftp://"):
        open_checkpoint_store("ftp://somewhere")


def test_what_is_removed_is_served_to_nobody(store: CheckpointStore):
    publish(store)
    store.remove(MODEL, CHECKPOINT)
    with pytest.raises(CorruptCheckpoint, match="missing"):
        store.fetch(MODEL, CHECKPOINT)


def test_a_large_file_comes_back_as_it_went(store: CheckpointStore, place: Place):
    weights = os.urandom(20 * 2**20)  # in two parts, where a store has parts
    publish(store, weights)
    assert (place.open().fetch(MODEL, CHECKPOINT, state=False).adapter / Path(WEIGHTS).name).read_bytes() == weights


def test_the_manifest_has_the_size_and_digest_of_every_file(store: CheckpointStore):
    manifest = publish(store)
    assert {path: size for path, (size, _) in manifest.files.items()} == {WEIGHTS: 7, MOMENTS: 7}
    assert len({sha256 for _, sha256 in manifest.files.values()}) == 2
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_checkpoint_without_optimizer_state_has_none(store: CheckpointStore, place: Place):
    with store.stage(MODEL, CHECKPOINT) as staged:
        (staged / WEIGHTS).write_bytes(b"weights")
        store.publish(MODEL, CHECKPOINT, staged)
    assert place.open().fetch(MODEL, CHECKPOINT).state is None
    assert [stored.has_state for stored in store.stored()] == [False]


def test_settling_may_be_repeated_and_changes_nothing_that_is_read(store: CheckpointStore, place: Place):
    publish(store)
    before = place.names()
    for _ in range(2):
        store.settle(MODEL, CHECKPOINT)
    assert place.names() == before
    assert (place.open().fetch(MODEL, CHECKPOINT).adapter / Path(WEIGHTS).name).read_bytes() == b"weights"


def test_releasing_what_was_never_fetched_is_fine_and_so_is_releasing_twice(store: CheckpointStore):
    store.release(MODEL, CHECKPOINT)
    publish(store)
    store.fetch(MODEL, CHECKPOINT)
    store.fetch(MODEL, CHECKPOINT)
    store.release(MODEL, CHECKPOINT)
    store.release(MODEL, CHECKPOINT)
    assert store.fetch(MODEL, CHECKPOINT).state is not None


def test_a_checkpoint_may_be_published_again_after_it_was_removed(store: CheckpointStore, place: Place):
    publish(store)
    store.remove(MODEL, CHECKPOINT)
    publish(store, b"others")
    assert (place.open().fetch(MODEL, CHECKPOINT).adapter / Path(WEIGHTS).name).read_bytes() == b"others"


def test_an_unfinished_upload_is_no_checkpoint_but_a_leftover(store: CheckpointStore, place: Place):
    publish(store)
    place.leave_behind(b"half")
    place.age(7200)
    assert [stored.checkpoint for stored in store.stored()] == [CHECKPOINT]
    ((name, age_s),) = store.left_over()
    assert age_s >= 7200
    assert store.remove_left_over(name) == len(b"half")
    assert not list(store.left_over())
    assert place.open().fetch(MODEL, CHECKPOINT).state is not None


PUBLISHER = """
import sys, uuid
from store.checkpoint_stores import open_checkpoint_store
from wire.process.faults import arm_faults
arm_faults()
store = open_checkpoint_store(sys.argv[1])
model, checkpoint = uuid.UUID(sys.argv[2]), uuid.UUID(sys.argv[3])
with store.stage(model, checkpoint) as staged:
    (staged / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    store.publish(model, checkpoint, staged)
"""


def test_a_trainer_killed_between_files_and_manifest_leaves_no_checkpoint_and_what_it_left_goes(place: Place):
    command = [sys.executable, "-c", PUBLISHER, place.url, str(MODEL), str(CHECKPOINT)]
    environment = {**os.environ, "HEADWAY_FAULTS": "publish:before-manifest:1:kill"}
    assert subprocess.run(command, env=environment, check=False).returncode == -9
    store = place.open()
    assert [name.rpartition("/")[2] for name in place.names()] == ["adapter_model.safetensors"]
    assert list(store.stored()) == []
    with pytest.raises(CorruptCheckpoint, match="missing"):
        store.fetch(MODEL, CHECKPOINT)
    ((name, age_s),) = store.left_over()
    assert age_s < 60
    assert store.remove_left_over(name) == len(b"weights")
    assert place.names() == []


def test_what_is_stored_is_listed_with_its_age(store: CheckpointStore, place: Place):
    other = uuid.uuid4()
    publish(store)
    publish(store, checkpoint=other)
    store.remove(MODEL, other, "state")
    place.age(7200)
    stored = sorted(store.stored(), key=lambda one: one.has_state)
    assert [(one.model, one.checkpoint, one.has_state) for one in stored] == [
        (MODEL, other, False),
        (MODEL, CHECKPOINT, True),
    ]
    assert all(isinstance(one, StoredCheckpoint) and 7200 <= one.age_s < 8000 for one in stored)


def test_an_unharmed_checkpoint_has_no_problems(store: CheckpointStore):
    manifest = publish(store)
    assert store.check(MODEL, CHECKPOINT, manifest, PARTS) == []
    assert store.check(MODEL, CHECKPOINT, manifest, ["adapter"]) == [FileProblem(MOMENTS, "extra")]
    store.remove(MODEL, CHECKPOINT, "state")
    assert store.check(MODEL, CHECKPOINT, manifest, ["adapter"]) == []
    assert store.check(MODEL, CHECKPOINT, manifest, PARTS) == [FileProblem(MOMENTS, "missing")]


def test_missing_changed_and_extra_files_are_named_by_a_check(store: CheckpointStore, place: Place):
    manifest = publish(store)
    folder = f"{MODEL.hex}/{CHECKPOINT.hex}"
    place.path(f"{folder}/{MOMENTS}").unlink()
    place.path(f"{folder}/{WEIGHTS}").write_bytes(b"wEights")
    place.path(f"{folder}/adapter/stranger").write_bytes(b"?")
    sizes = [FileProblem("adapter/stranger", "extra"), FileProblem(MOMENTS, "missing")]
    assert store.check(MODEL, CHECKPOINT, manifest, PARTS, read=False) == sizes, "sizes alone do not tell"
    found = store.check(MODEL, CHECKPOINT, manifest, PARTS)
    assert found == sorted([*sizes, FileProblem(WEIGHTS, "changed")], key=lambda problem: problem.path)


def test_a_check_against_another_manifest_names_the_stores_own(store: CheckpointStore):
    other = uuid.uuid4()
    expected = publish(store, b"others", checkpoint=other)
    publish(store)
    changed = [FileProblem(WEIGHTS, "changed"), FileProblem("manifest.json", "changed")]
    assert store.check(MODEL, CHECKPOINT, expected, PARTS) == changed


def test_a_check_of_what_is_not_there_names_every_file(store: CheckpointStore, place: Place):
    manifest = publish(store)
    store.remove(MODEL, CHECKPOINT)
    problems = place.open().check(MODEL, CHECKPOINT, manifest, PARTS)
    assert [(p.path, p.what) for p in problems] == [
        (WEIGHTS, "missing"),
        ("manifest.json", "changed"),
        (MOMENTS, "missing"),
    ]


def test_a_part_has_the_same_description_in_every_store(store: CheckpointStore):
    assert store.describe(MODEL, CHECKPOINT, "adapter") == f"checkpoints/{MODEL.hex}/{CHECKPOINT.hex}/adapter"
