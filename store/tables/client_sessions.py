"""Sessions of clients that number their own requests, and what they sample in them."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, Big, CreatedAt, UuidKey


class ClientSessionRow(Base):
    """What one client process does: the models that it makes and the samplers that it opens are numbered within it.

    It lives by its heartbeat, and ends when the client finishes it; its models and their checkpoints outlive it.
    """

    __tablename__ = "client_sessions"
    __table_args__ = (
        Index(None, "team_id", "created_at"),
        Index(
            "uq_client_sessions_idempotency_key",
            "team_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key is not null"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id"))
    key_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    idempotency_key: Mapped[str | None]
    display_name: Mapped[str | None]
    project: Mapped[str | None]
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text()), default=list, server_default="{}")
    user_metadata: Mapped[dict[str, Any] | None]
    sdk_version: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    heartbeat_at: Mapped[CreatedAt]
    finished_at: Mapped[datetime | None]
    finish_reason: Mapped[dict[str, Any] | None]


class SamplingSessionRow(Base):
    """Weights that a client samples: of a base, or of one checkpoint. `inflight`: the checkpoint is replaced by each
    later save of the run that is in flight as well."""

    __tablename__ = "sampling_sessions"
    __table_args__ = (
        CheckConstraint("kind in ('base', 'path', 'snapshot', 'inflight')", name="kind"),
        Index("uq_sampling_sessions_session", "session_id", "session_index", unique=True),
        Index(None, "model_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("client_sessions.id"))
    session_index: Mapped[Big]
    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id"))
    kind: Mapped[str]
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id"))
    """The base itself, or the fork whose checkpoint it is."""
    checkpoint_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("checkpoints.id"))
    """Null: the base weights."""
    path: Mapped[str | None]
    """As the client named the weights."""
    num_clones: Mapped[int] = mapped_column(default=0, server_default="0")
    created_at: Mapped[CreatedAt]


class SamplingRequestRow(Base):
    """One request to sample, whose answer is fetched later. `owner`: the server process that works on it
    (`store.planes.presence`); once that has died, whoever asks for the answer works on it again."""

    __tablename__ = "sampling_requests"
    __table_args__ = (
        Index("uq_sampling_requests_sequence", "sampling_session_id", "client_sequence", unique=True),
        CheckConstraint("state in ('open', 'done', 'failed', 'cancelled')", name="state"),
        Index(None, "created_at"),
        Index(None, "sampling_session_id", "finished_at"),
        Index("ix_sampling_requests_pictures", "created_at", postgresql_where=text("pictures is not null")),
    )

    id: Mapped[UuidKey]
    sampling_session_id: Mapped[str] = mapped_column(ForeignKey("sampling_sessions.id", ondelete="CASCADE"))
    client_sequence: Mapped[Big]
    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id"))
    state: Mapped[str] = mapped_column(default="open", server_default="open")
    owner: Mapped[Big | None]
    request: Mapped[bytes]
    pictures: Mapped[list[str] | None] = mapped_column(ARRAY(Text()))
    """Names of those in the request; null where there are none."""
    result: Mapped[bytes | None]
    error_category: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    finished_at: Mapped[datetime | None]
