"""Writing the audit log, in the transaction of the change that it records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from server.principals.callers import Caller
from store.tables import EventRow


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a key, or (without) somebody of that name: None is the command line."""

    key_id: UUID | None = None
    name: str | None = None


COMMAND_LINE = Actor()
GUARD = Actor(name="guard")
"""The service itself, by its rules."""


def actor_of(caller: Caller) -> Actor:
    """The caller's key."""
    return Actor(key_id=caller.key_id)


def record(
    session: AsyncSession,
    actor: Actor,
    action: str,
    *,
    team_id: UUID | None = None,
    subject_id: UUID | None = None,
    **detail: Any,
) -> None:
    """`actor` did `action` to `subject_id`, a thing of `team_id` (None: of the service). `detail`: JSON values; never a
    secret."""
    session.add(
        EventRow(
            team_id=team_id,
            key_id=actor.key_id,
            actor=actor.name,
            action=action,
            subject_id=subject_id,
            detail=detail or None,
        )
    )
