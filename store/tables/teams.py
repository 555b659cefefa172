"""Teams, their API keys, and the audit log."""

from __future__ import annotations

import uuid
from datetime import date, datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, Date, ForeignKey, Identity, Index, Text, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, Big, CreatedAt, UuidKey


class TeamRow(Base):
    """Owner of models, keys, jobs and traces. A quota that is null does not limit."""

    __tablename__ = "teams"

    id: Mapped[UuidKey]
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[CreatedAt]
    disabled_at: Mapped[datetime | None]
    removed_at: Mapped[datetime | None]
    max_models: Mapped[int | None]
    max_storage_bytes: Mapped[Big | None]
    max_concurrent_rollouts: Mapped[int | None]
    max_training_tokens_per_day: Mapped[Big | None]


class TrainingUsageRow(Base):
    """How many tokens a team sent to be trained on a day (UTC), counted when they were accepted."""

    __tablename__ = "training_usage"

    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id", ondelete="CASCADE"), primary_key=True)
    day: Mapped[date] = mapped_column(Date(), primary_key=True)
    num_tokens: Mapped[Big]


class ApiKeyRow(Base):
    """A bearer key. Only its SHA-256 is kept: keys are 256 random bits, so a slow hash would add nothing.

    `scopes` are those of its role, or fewer; `model_ids`: the only models that it opens; null: all of the team's.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("role in ('viewer', 'member', 'team_admin', 'admin', 'runner', 'agent')", name="role"),
        CheckConstraint("(role = 'agent') = (runner_id is not null)", name="agents_are_of_runners"),
        Index(None, "team_id", "created_at"),
        Index(None, "runner_id"),
    )

    id: Mapped[UuidKey]
    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id"))
    name: Mapped[str]
    prefix: Mapped[str]
    key_hash: Mapped[bytes] = mapped_column(unique=True)
    role: Mapped[str]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text()))
    model_ids: Mapped[list[uuid.UUID] | None] = mapped_column(ARRAY(Uuid()))
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    """To the minute or so: servers note it in the background."""
    replaces_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    """The key that this one was rotated from."""
    revoked_at: Mapped[datetime | None]
    runner_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("runners.id", ondelete="CASCADE"), default=None)
    """It opens the rollouts that this runner holds just now, and nothing else."""


class EventRow(Base):
    """One line of the audit log: who did what to which thing. It outlives teams and keys, hence no foreign keys."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "team_id", "id"), Index(None, "subject_id", "id"))

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[CreatedAt]
    team_id: Mapped[uuid.UUID | None]
    """Whose thing it is; null: the service's."""
    key_id: Mapped[uuid.UUID | None]
    actor: Mapped[str | None]
    """Who did it where it was no key: `guard`, say; null without a key: somebody on the command line."""
    action: Mapped[str]
    subject_id: Mapped[uuid.UUID | None]
    detail: Mapped[dict[str, Any] | None]
