"""Checkpoints in an object store with the S3 API."""

from store.checkpoint_stores.s3.store import S3CheckpointStore

__all__ = ["S3CheckpointStore"]
