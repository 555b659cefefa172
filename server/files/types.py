"""Uploaded files as clients see them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from server.files.lines import FileKind


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a team. `kind`: what its lines are."""

    id: UUID
    filename: str
    purpose: str
    num_bytes: int
    num_lines: int
    kind: FileKind
    created_at: datetime
    blob: str
