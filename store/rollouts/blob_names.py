"""Which blobs recorded rollouts need, for those who collect, copy and verify blobs."""

from __future__ import annotations

ROLLOUT_BLOBS = """
    select tokens_blob as name from samples where tokens_blob is not null
    union select conversation_blob from samples where conversation_blob is not null
    union select payload_blob from spans where payload_blob is not null
"""
"""SQL: their names, each once."""
