"""Which blobs uploaded files need, for those who collect, copy and verify blobs."""

from __future__ import annotations

FILE_BLOBS = "select blob as name from files"
"""SQL: their names."""
