from __future__ import annotations

from pathlib import Path

import pytest

from server.training.operations import placed_or_refused
from store.blob_stores.file import FileBlobStore
from wire.errors import Unavailable
from wire.payload import encode

LARGE = encode({"arguments": "x" * 100_000})


async def test_a_payload_that_the_disk_does_not_take_is_refused_and_may_be_sent_again(tmp_path: Path):
    in_the_way = tmp_path / "blobs"
    in_the_way.write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="could not be stored .*; nothing was accepted"):
        await placed_or_refused(FileBlobStore(in_the_way), LARGE)


async def test_a_write_that_fails_leaves_no_half_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("store.blob_stores.file.sync_file", full)
    with pytest.raises(Unavailable, match="No space left on device"):
        await placed_or_refused(FileBlobStore(tmp_path), LARGE)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]  # noqa: ASYNC240 - nothing else runs
