"""Where checkpoints live. A new kind of store is one file here and one line in the table."""

from __future__ import annotations

from collections.abc import Callable

from store.checkpoint_stores.base import CheckpointFiles, CheckpointStore, Manifest
from store.checkpoint_stores.file import FileCheckpointStore


def _s3(url: str) -> CheckpointStore:
    try:
        from store.checkpoint_stores.s3 import S3CheckpointStore
    except ModuleNotFoundError as missing:
        raise ValueError(f"an s3:// checkpoint store needs {missing.name}: pip install 'headway[s3]'") from None
    return S3CheckpointStore.from_url(url)


CHECKPOINT_STORES: dict[str, Callable[[str], CheckpointStore]] = {
    "file": FileCheckpointStore.from_url,
    "s3": _s3,
}


def open_checkpoint_store(url: str) -> CheckpointStore:
    """The store a URL names, such as `file:///var/lib/headway/checkpoints`. Raises ValueError for other schemes."""
    scheme = url.partition("://")[0]
    if scheme not in CHECKPOINT_STORES:
        raise ValueError(f"no checkpoint store for {scheme}://; known: {', '.join(CHECKPOINT_STORES)}")
    return CHECKPOINT_STORES[scheme](url)


__all__ = ["CheckpointFiles", "CheckpointStore", "Manifest", "open_checkpoint_store"]
