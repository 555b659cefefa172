"""Persistent state: PostgreSQL tables, the op log, the checkpoint tree, blobs and checkpoint files."""
