"""Checkpoints in an object store that speaks S3."""

from store.checkpoint_stores.s3.store import S3CheckpointStore

__all__ = ["S3CheckpointStore"]
