"""Held-out scores, the guard's settings, and the alarms that it raised."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, CreatedAt, UuidKey


class EvalRow(Base):
    """A held-out score of a checkpoint (null: of the base weights): posted, or summed up from an evaluation job.

    `guard_checked_at` null: the guard has not looked at it yet; a job's score that changes is looked at again.
    """

    __tablename__ = "evals"
    __table_args__ = (
        Index(None, "model_id", "created_at", "id"),
        Index(
            "uq_evals_job",
            "model_id",
            "job_id",
            "checkpoint_id",
            unique=True,
            postgresql_where=text("job_id is not null"),
            postgresql_nulls_not_distinct=True,
        ),
        Index("ix_evals_unchecked", "model_id", postgresql_where=text("guard_checked_at is null")),
    )

    id: Mapped[UuidKey]
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id"))
    checkpoint_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("checkpoints.id"))
    benchmark: Mapped[str]
    score: Mapped[float]
    n: Mapped[int | None]
    stderr: Mapped[float | None]
    higher_is_better: Mapped[bool]
    job_id: Mapped[uuid.UUID | None]
    mixed: Mapped[bool]
    details: Mapped[dict[str, Any] | None]
    created_at: Mapped[CreatedAt]
    guard_checked_at: Mapped[datetime | None]


class GuardRow(Base):
    """What was set of a model's guard; what was not has its default (`server.guard.rules`)."""

    __tablename__ = "guards"

    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id"), primary_key=True)
    rules: Mapped[dict[str, Any]]
    eval_jobs: Mapped[list[str] | None] = mapped_column(ARRAY(Text()))
    webhook_url: Mapped[str | None]


class AlarmRow(Base):
    """Something that a rule found, and what was done about it. `subject_id`: the checkpoint, eval or operation that
    the rule looked at; `step`: of its checkpoint, 0 for the base weights.

    `outcome`: of each action that was tried, a sentence. `head_before`, `head_after`: of a roll-back, names of
    checkpoints, `base` for the base weights.
    """

    __tablename__ = "alarms"
    __table_args__ = (
        Index("uq_alarms_rule_subject", "rule", "subject_id", unique=True),
        Index(None, "model_id", "created_at", "id"),
        Index("ix_alarms_open", "created_at", postgresql_where=text("acknowledged_at is null")),
        Index("ix_alarms_pending", "try_at", postgresql_where=text("state = 'pending'")),
        CheckConstraint("state in ('noted', 'pending', 'done', 'failed', 'undone')", name="state"),
    )

    id: Mapped[UuidKey]
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id"))
    rule: Mapped[str]
    subject_id: Mapped[uuid.UUID]
    checkpoint_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("checkpoints.id"))
    step: Mapped[int]
    message: Mapped[str]
    evidence: Mapped[dict[str, Any]]
    actions: Mapped[list[str]] = mapped_column(ARRAY(Text()))
    state: Mapped[str]
    outcome: Mapped[dict[str, Any]]
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    try_at: Mapped[CreatedAt]
    head_before: Mapped[str | None]
    head_after: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    acknowledged_at: Mapped[datetime | None]
    undone_at: Mapped[datetime | None]
