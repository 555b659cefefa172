"""Teams, their API keys, and the audit log."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity, Index
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, CreatedAt, UuidKey


class TeamRow(Base):
    """Owner of models, keys, jobs and traces."""

    __tablename__ = "teams"

    id: Mapped[UuidKey]
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[CreatedAt]


class ApiKeyRow(Base):
    """A bearer key. Only its SHA-256 is kept: keys are 256 random bits, so a slow hash would add nothing."""

    __tablename__ = "api_keys"

    id: Mapped[UuidKey]
    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id"))
    name: Mapped[str]
    prefix: Mapped[str]
    key_hash: Mapped[bytes] = mapped_column(unique=True)
    is_admin: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[CreatedAt]
    revoked_at: Mapped[datetime | None]


class EventRow(Base):
    """One line of the audit log: who did what to which thing."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "team_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[CreatedAt]
    team_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("teams.id"))
    key_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    action: Mapped[str]
    subject_id: Mapped[uuid.UUID | None]
    detail: Mapped[dict[str, Any] | None]
