from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from tests.chaos.durable_work import (
    lost_blobs,
    lost_checkpoints,
    lost_without_sync,
    put_blobs,
    recorded,
    write_checkpoints,
)
from tests.chaos.power_cut import Killed, Recorder, cuts


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder with the data folder of an installation, both of which last."""
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.mark.parametrize("seed", range(5))
def test_a_settled_checkpoint_survives_a_power_cut_after_any_operation(disk: Path, tmp_path: Path, seed: int):
    ids = [uuid.UUID(int=seed * 10 + i + 1) for i in range(2)]
    recorder = recorded(disk, lambda r: write_checkpoints(disk, r, ids))
    assert len(recorder.steps) > 40, "the recorder missed operations"
    for end, promised, left in cuts(recorder, disk, tmp_path / "left", seed):
        assert not list(lost_checkpoints(left, promised)), f"after {recorder.steps[end - 1]}"


@pytest.mark.parametrize("seed", range(5))
def test_a_blob_that_was_put_survives_a_power_cut_after_any_operation(disk: Path, tmp_path: Path, seed: int):
    contents = [b"%d" % (seed * 10 + i) for i in range(3)]
    recorder = recorded(disk, lambda r: put_blobs(disk, r, contents))
    for end, promised, left in cuts(recorder, disk, tmp_path / "left", seed):
        assert not list(lost_blobs(left, promised)), f"after {recorder.steps[end - 1]}"


def kill_points(disk: Path, work: Callable[[Path, Recorder], None]) -> int:
    recorder = recorded(disk, lambda r: work(disk, r))
    return sum(step.what != "mark" for step in recorder.steps)


def test_what_a_killed_process_left_unsynced_is_not_relied_upon(tmp_path: Path):
    """A process is killed after each operation in turn, another does the same again; then the power is cut."""
    content, checkpoint = b"content", uuid.UUID(int=5)

    def work(disk: Path, recorder: Recorder) -> None:
        put_blobs(disk, recorder, [content])
        write_checkpoints(disk, recorder, [checkpoint])

    (tmp_path / "whole").mkdir()
    for kill_at in range(3, kill_points(tmp_path / "whole", work)):
        disk = tmp_path / f"disk-{kill_at}"
        disk.mkdir()

        def killed_then_again(recorder: Recorder, disk: Path = disk, kill_at: int = kill_at) -> None:
            recorder.kill_at = kill_at
            with pytest.raises(Killed):
                work(disk, recorder)
            recorder.kill_at = None
            put_blobs(disk, recorder, [content])
            write_checkpoints(disk, recorder, [uuid.UUID(int=6)])

        recorder = recorded(disk, killed_then_again)
        for end, promised, left in cuts(recorder, disk, tmp_path / f"left-{kill_at}", kill_at):
            blobs = [p for p in promised if isinstance(p, bytes)]
            checkpoints = [p for p in promised if isinstance(p, UUID)]
            lost = [*lost_blobs(left, blobs), *lost_checkpoints(left, checkpoints)]
            assert not lost, f"killed after {kill_at}, power cut after {recorder.steps[end - 1]}: {lost}"


def test_the_simulation_notices_a_store_that_does_not_sync(tmp_path: Path):
    assert len(lost_without_sync(tmp_path)) == 2
