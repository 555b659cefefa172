"""What routes that list the audit log take from the query."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query
from pydantic import AwareDatetime

from server.audit.listing import EventFilter


async def _event_filter(
    action: Annotated[str | None, Query(max_length=100, description="Such as `set_head`")] = None,
    subject_id: Annotated[UUID | None, Query(description="What it was done to: a model, a key, a team, …")] = None,
    key_id: Annotated[UUID | None, Query(description="Whose key did it")] = None,
    since: Annotated[AwareDatetime | None, Query(description="Not before this time")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Before this time")] = None,
) -> EventFilter:
    return EventFilter(action, subject_id, key_id, since, until)


EventFilterParams = Annotated[EventFilter, Depends(_event_filter)]
