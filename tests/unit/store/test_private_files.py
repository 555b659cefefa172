from __future__ import annotations

import contextlib
import os
from pathlib import Path

from store.private_files import private_data_folder, private_umask, shared_umask, write_private


def opened(folder: Path) -> set[str]:
    paths = (folder, *folder.rglob("*"))
    return {str(p.relative_to(folder)) for p in paths if not p.is_symlink() and p.lstat().st_mode & 0o077}


def as_an_earlier_version_left_it(folder: Path) -> None:
    for name in ("blobs/ab", "checkpoints/model/adapter", "logs"):
        (folder / name).mkdir(parents=True)
    for name in ("blobs/ab/abcd", "checkpoints/model/adapter/weights", "logs/server.log"):
        (folder / name).write_text("x")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_new_data_folder_is_for_its_owner_alone(tmp_path: Path):
    private_data_folder(tmp_path / "a" / "data")
    assert opened(tmp_path / "a" / "data") == set()


def test_a_data_folder_that_was_open_is_closed(tmp_path: Path):
    data = tmp_path / "data"
    as_an_earlier_version_left_it(data)
    outside = tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o644)
    (data / "logs" / "link").symlink_to(outside)
    private_data_folder(data)
    assert opened(data) == set()
    assert (data / "blobs" / "ab" / "abcd").stat().st_mode & 0o777 == 0o600
    assert outside.stat().st_mode & 0o777 == 0o644


def test_a_walk_that_was_interrupted_is_gone_over_again(tmp_path: Path, monkeypatch):
    data = tmp_path / "data"
    as_an_earlier_version_left_it(data)
    chmod, num = Path.chmod, 0

    def interrupted(path: Path, mode: int) -> None:
        nonlocal num
        num += 1
        if num == 3:
            raise KeyboardInterrupt
        chmod(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", interrupted)
        with contextlib.suppress(KeyboardInterrupt):
            private_data_folder(data)
    assert opened(data) != set()
    private_data_folder(data)
    assert opened(data) == set()


def test_what_lies_beside_our_folders_stays_as_it_is(tmp_path: Path):
    project = tmp_path / "project"
    as_an_earlier_version_left_it(project)
    (project / "src").mkdir()
    (project / "src").chmod(0o755)
    private_data_folder(project)
    assert opened(project) == {".", "src"}


def test_a_folder_for_everybody_stays_one(tmp_path: Path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    private_data_folder(shared)
    assert shared.stat().st_mode & 0o7777 == 0o1777


def test_files_are_private_whatever_the_umask_and_downloads_have_the_users_own(tmp_path: Path):
    before = os.umask(0o002)
    try:
        write_private(tmp_path / "secret", "x")
        assert private_umask() == 0o002
        (tmp_path / "ours").write_text("x")
        with shared_umask():
            (tmp_path / "downloaded").write_text("x")
        (tmp_path / "ours-too").write_text("x")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"secret": 0o600, "ours": 0o600, "downloaded": 0o664, "ours-too": 0o600}
