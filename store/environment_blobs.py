"""Which blobs environments need, for those who collect, copy and verify blobs."""

from __future__ import annotations

ENVIRONMENT_BLOBS = "select archive_blob as name from environment_builds where archive_blob is not null"
"""SQL: their names."""
