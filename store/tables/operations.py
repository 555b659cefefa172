"""The op log, and the leases under which trainers work it off."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, Sequence, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from store.operation_kinds import GRADIENTS, is_any
from store.tables.base import Base, Big, CreatedAt, UuidKey

lease_tokens = Sequence("lease_tokens", metadata=Base.metadata)


class OperationRow(Base):
    """One request to a model's trainer, written before it is acknowledged, worked off in `sequence` order.

    Payloads and results are `wire.payload` bytes: inline, or, when larger, the name of a durable blob. A gradient
    operation that is done and has no `consumed_by_id` is part of the model's accumulated gradient; for other such
    conclusions see `store.oplog.conditions`.
    """

    __tablename__ = "operations"
    __table_args__ = (
        Index("uq_operations_model_sequence", "model_id", "sequence", unique=True),
        Index(
            "uq_operations_client_sequence",
            "model_id",
            "client_sequence",
            unique=True,
            postgresql_where=text("client_sequence is not null"),
        ),
        Index("ix_operations_held", "created_at", postgresql_where=text("state = 'held'")),
        Index("ix_operations_open", "model_id", "sequence", postgresql_where=text("state in ('queued', 'running')")),
        Index(
            "ix_operations_unconsumed",
            "model_id",
            "sequence",
            postgresql_where=text(f"{is_any('kind', GRADIENTS)} and state = 'done' and consumed_by_id is null"),
        ),
        Index(
            "uq_operations_idempotency_key",
            "model_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key is not null"),
        ),
        Index(
            "ix_operations_unanswered",
            "model_id",
            "request_digest",
            postgresql_where=text(
                "state in ('queued', 'running', 'done') and consumed_by_id is null and answered_at is null "
                "and idempotency_key is null"
            ),
        ),
        Index(
            "ix_operations_non_finite",
            "model_id",
            postgresql_where=text("error_code = 'non_finite' and guard_checked_at is null"),
        ),
        Index(
            "ix_operations_blobs",
            "finished_at",
            postgresql_where=text("blobs_dropped_at is null and (payload_blob is not null or result_blob is not null)"),
        ),
        Index("ix_operations_pictures", "finished_at", postgresql_where=text("pictures is not null")),
        CheckConstraint("state in ('held', 'queued', 'running', 'done', 'failed', 'superseded')", name="state"),
        CheckConstraint("(payload is null) != (payload_blob is null)", name="one_payload"),
    )

    id: Mapped[UuidKey]
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id"))
    sequence: Mapped[Big | None]
    """Its place in the model's log. Null: it is held, or was refused before it had a place."""
    client_sequence: Mapped[Big | None]
    """The client's own number. While a lower one is missing, the operation is held."""
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(default="queued")
    payload: Mapped[bytes | None]
    payload_blob: Mapped[str | None]
    pictures: Mapped[list[str] | None] = mapped_column(ARRAY(Text()))
    """Names of those in the payload, as long as a trainer may read it; null where there are none."""
    head_version: Mapped[Big]
    """The model's when the operation was accepted."""
    summary: Mapped[dict[str, Any] | None]
    """Metrics and counts of a finished gradient pass: what the next checkpoint adds up."""
    plan: Mapped[bytes | None]
    """What decided the last bits of what is done (`wire.plans`), written with its result. Null in rows that an earlier
    version wrote."""
    result: Mapped[bytes | None]
    result_blob: Mapped[str | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    forward_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("operations.id"))
    """The forward whose handle a backward uses."""
    consumed_by_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("operations.id"))
    """The optim_step that applied this gradient, or the backward that used this forward's handle."""
    lease_token: Mapped[Big | None]
    idempotency_key: Mapped[str | None]
    request_digest: Mapped[bytes | None]
    """Of the request as it was sent, parsed. Null in rows that an earlier version wrote."""
    body_digest: Mapped[bytes | None]
    """Of what the request was resolved to, by which rows without `request_digest` are compared."""
    num_tokens: Mapped[Big] = mapped_column(default=0, server_default="0")
    """Tokens sent to be trained on or scored: what it counts for in its team's turn (`store.oplog.turns`)."""
    created_at: Mapped[CreatedAt]
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    """How often a trainer has started it, without the times that it was put off."""
    deferrals: Mapped[int] = mapped_column(default=0, server_default="0")
    """How often it was put off for a trouble; the pause grows with it."""
    faults: Mapped[int] = mapped_column(default=0, server_default="0")
    """How often for one that is an end after some tries (`wire.errors.HeadwayError.tries`)."""
    retry_at: Mapped[datetime | None]
    """It is queued, and not started before. Null: at once."""
    retry_reason: Mapped[str | None]
    """Which trouble it was put off for, last."""
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    caller: Mapped[Big | None]
    """The call that waits for the answer (`store.planes.presence`) or was given it; null: none, or several were."""
    answered_at: Mapped[datetime | None]
    blobs_dropped_at: Mapped[datetime | None]
    """Nobody needs the blobs of this operation any more, and they may be gone: see `store.retention`."""
    guard_checked_at: Mapped[datetime | None]
    """When the guard took notice of its failure, where numbers were not finite (`server.guard`)."""


class TrainingTurnRow(Base):
    """Where a team stands in the queue for a base's trainers: the tags of its last operation, in tokens of virtual time
    (`store.oplog.turns`)."""

    __tablename__ = "training_turns"

    base_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id"), primary_key=True)
    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id", ondelete="CASCADE"), primary_key=True)
    start_tag: Mapped[Big]
    finish_tag: Mapped[Big]


class ModelLeaseRow(Base):
    """Who may write for a model. Tokens only grow; a write that carries an old one is void."""

    __tablename__ = "model_leases"

    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id"), primary_key=True)
    trainer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("trainers.id"))
    token: Mapped[Big] = mapped_column(server_default=lease_tokens.next_value())
    taken_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime]
