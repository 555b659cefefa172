"""A line of the audit log, as it is listed."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel


class Event(BaseModel):
    """One line of the audit log. `actor`: the key's name and first characters, `guard`, or `command line`."""

    id: int
    at: datetime
    team_id: UUID | None
    key_id: UUID | None
    actor: str
    action: str
    subject_id: UUID | None
    detail: dict[str, Any]
