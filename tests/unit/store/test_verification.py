from __future__ import annotations

import uuid

import pytest

from store.verification import missing_files, verify
from tests.ports.checkpoint_places import KINDS
from tests.unit.store.conftest import Estate


@pytest.fixture(params=KINDS)
def place_kind(request: pytest.FixtureRequest) -> str:
    return request.param


def damages(estate: Estate) -> list[tuple[str, str]]:
    return [(d.what, d.path) for d in verify(estate.database, estate.checkpoints, estate.blobs)]


def test_an_unharmed_service_verifies_and_shows_how_far_it_is(estate: Estate):
    estate.steps(2)
    estate.operation("forward_backward", payload_blob=estate.blobs.put(b"batch"))
    seen: list[tuple[int, int]] = []
    found = verify(estate.database, estate.checkpoints, estate.blobs, lambda done, of: seen.append((done, of)))
    assert found == []
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("file", ["adapter/adapter_model.safetensors", "state/state.safetensors"])
def test_a_flipped_byte_is_named(estate: Estate, file: str):
    harmed, _ = estate.steps(2)
    path = estate.path(harmed, file)
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    assert damages(estate) == [("changed", file)]
    assert missing_files(estate.database, estate.checkpoints) == [], "sizes alone do not tell"
    assert estate.row(harmed).name in verify(estate.database, estate.checkpoints, estate.blobs)[0].where


def test_missing_and_extra_files_are_named(estate: Estate):
    checkpoint = estate.step()
    estate.path(checkpoint, "state/state.safetensors").unlink()
    estate.path(checkpoint, "adapter/stranger").write_bytes(b"?")
    expected = [("extra", "adapter/stranger"), ("missing", "state/state.safetensors")]
    assert damages(estate) == expected
    assert [(d.what, d.path) for d in missing_files(estate.database, estate.checkpoints)] == expected


def test_a_whole_folder_that_is_gone_is_named_file_by_file(estate: Estate):
    checkpoint = estate.step()
    estate.checkpoints.remove(estate.world.model_id, checkpoint)
    assert [what for what, _ in damages(estate)] == ["missing", "changed", "missing"]


def test_a_folder_that_agrees_with_itself_and_not_with_the_database_is_found(estate: Estate):
    """Files and manifest of another run under this checkpoint's name."""
    checkpoint = estate.step()
    estate.checkpoints.remove(estate.world.model_id, checkpoint)
    estate.publish(checkpoint, b"others")
    assert ("changed", "manifest.json") in damages(estate)
    assert ("changed", "adapter/adapter_model.safetensors") in damages(estate)


def test_what_retention_removed_is_not_missed(estate: Estate):
    estate.steps(4)
    estate.collect(keep_last_states=1, keep_last_adapters=2)
    assert damages(estate) == []


def test_harmed_and_missing_blobs_are_named(estate: Estate):
    estate.step()
    harmed, missing = estate.blobs.put(b"harmed"), estate.blobs.put(b"missing")
    estate.operation("forward_backward", payload_blob=harmed)
    estate.operation("forward_backward", payload_blob=missing)
    estate.blob_place.path(harmed).write_bytes(b"hArmed")
    estate.blob_place.path(missing).unlink()
    assert sorted(damages(estate)) == sorted([("changed", harmed), ("missing", missing)])


def test_what_no_committed_checkpoint_names_is_not_looked_at(estate: Estate, add_checkpoint):
    estate.step()
    for status in ("staged", "rejected"):
        add_checkpoint(status)
    estate.publish(uuid.uuid4())
    assert damages(estate) == []
