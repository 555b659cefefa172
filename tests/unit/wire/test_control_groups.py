"""What control groups leave of a machine's memory, by files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from wire.process.control_groups import memory_left

GIB = 2**30


def written(group: Path, **files: object) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (group / f"memory.{name}").write_text(f"{value}\n")


def left(folder: Path, own: str) -> int | None:
    (folder / "own").write_text(own)
    return memory_left(folder / "groups", folder / "own")


def test_a_container_has_what_its_limit_leaves_and_what_cached_files_take(tmp_path: Path):
    written(tmp_path / "groups", max=6 * GIB, current=2 * GIB, stat=f"anon {GIB}\ninactive_file {GIB}")
    assert left(tmp_path, "0::/\n") == 5 * GIB


def test_the_first_group_that_is_full_counts(tmp_path: Path):
    written(tmp_path / "groups" / "box", max=4 * GIB, current=3 * GIB, stat="inactive_file 0")
    written(tmp_path / "groups" / "box" / "trainer", max="max", current=GIB, stat="inactive_file 0")
    assert left(tmp_path, "0::/box/trainer\n") == GIB


def test_groups_of_version_one_are_read(tmp_path: Path):
    group = tmp_path / "groups" / "memory" / "docker"
    written(group, limit_in_bytes=3 * GIB, usage_in_bytes=GIB, stat=f"total_inactive_file {GIB // 2}")
    assert left(tmp_path, "7:memory:/docker\n3:cpu,cpuacct:/docker\n") == 2 * GIB + GIB // 2


@pytest.mark.parametrize("own", ["0::/\n", "", "7:memory:/away\n"])
def test_without_a_limit_there_is_none(own: str, tmp_path: Path):
    written(tmp_path / "groups", max="max", current=GIB, stat="inactive_file 0")
    assert left(tmp_path, own) is None


def test_the_groups_of_this_process_can_be_read():
    assert memory_left() is None or memory_left() >= 0
