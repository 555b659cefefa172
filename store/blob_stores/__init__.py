"""Where blobs live: payloads, results, pictures, uploads. A new kind of store is one file here and one line in the
table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from store.blob_stores.base import BlobDraft, BlobStore, StoredBlob
from store.blob_stores.file import FileBlobStore
from store.disk.folder_url import folder_of_url


def _s3(url: str) -> BlobStore:
    try:
        from store.blob_stores.s3 import S3BlobStore
    except ModuleNotFoundError as missing:
        raise ValueError(f"an s3:// blob store needs {missing.name}: pip install 'headway[s3]'") from None
    return S3BlobStore.from_url(url)


BLOB_STORES: dict[str, Callable[[str], BlobStore]] = {"file": FileBlobStore.from_url, "s3": _s3}


def open_blob_store(url: str) -> BlobStore:
    """The store a URL names, such as `file:///var/lib/headway/blobs`. Raises ValueError for other schemes."""
    scheme = url.partition("://")[0]
    if scheme not in BLOB_STORES:
        raise ValueError(f"no blob store for {scheme}://; known: {', '.join(BLOB_STORES)}")
    return BLOB_STORES[scheme](url)


def folder_of(url: str) -> Path | None:
    """The folder that a store's URL names; None for a store that is not on a disk."""
    return folder_of_url(url) if url.startswith("file:") else None


__all__ = ["BlobDraft", "BlobStore", "StoredBlob", "folder_of", "open_blob_store"]
