"""Managed training: runs, their steps, what happened to them; and files that clients upload for them."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, Big, CreatedAt, UuidKey


class RunRow(Base):
    """A loop of GRPO that servers carry out, from rows: whoever holds its lease goes on at the phase of its last step.

    `lease_owner` is a server process (`store.planes.presence`), and `lease_token` grows with each lease: every write
    of the loop carries it. `tasks` are frozen when the run is made, as the texts of `taskset_tasks`.
    """

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint(
            "state in ('queued', 'running', 'pausing', 'paused', 'completed', 'stopped', 'failed', 'cancelling', "
            "'cancelled')",
            name="state",
        ),
        Index(
            "uq_runs_idempotency_key",
            "team_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key is not null"),
        ),
        Index(
            "uq_runs_live_of_model",
            "model_id",
            unique=True,
            postgresql_where=text("state in ('queued', 'running', 'pausing', 'paused', 'cancelling')"),
        ),
        Index(None, "team_id", "created_at", "id"),
        Index(None, "model_id", "created_at"),
        Index(
            "ix_runs_live",
            "leased_at",
            postgresql_where=text("state in ('queued', 'running', 'pausing', 'cancelling')"),
        ),
    )

    id: Mapped[UuidKey]
    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id"))
    key_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id"))
    name: Mapped[str | None]
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text()), default=list, server_default="{}")
    user_metadata: Mapped[dict[str, Any] | None]
    source: Mapped[str] = mapped_column(default="runs", server_default="runs")
    """By which protocol it was made: `runs`, `hud_rl`, `fine_tuning`."""
    details: Mapped[dict[str, Any] | None]
    """What that protocol keeps of the request."""
    idempotency_key: Mapped[str | None]
    request_digest: Mapped[bytes | None]
    taskset: Mapped[str | None]
    """The name that its tasks had."""
    num_tasks: Mapped[int]
    tasks: Mapped[str] = mapped_column(deferred=True)
    held_out_tasks: Mapped[str | None] = mapped_column(deferred=True)
    config: Mapped[dict[str, Any]]
    held_out: Mapped[dict[str, Any] | None]
    stop: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(default="queued", server_default="queued")
    step: Mapped[int] = mapped_column(default=0, server_default="0")
    """How many steps are done."""
    job_id: Mapped[uuid.UUID]
    held_out_job_id: Mapped[uuid.UUID | None]
    start_checkpoint_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("checkpoints.id"))
    checkpoint_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("checkpoints.id"))
    best_checkpoint_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("checkpoints.id"))
    reward: Mapped[float | None]
    held_out_score: Mapped[float | None]
    best_held_out_score: Mapped[float | None]
    error: Mapped[str | None]
    stop_reason: Mapped[str | None]
    waiting_for: Mapped[str | None]
    """What keeps it from going on, in words, while something does: a pause of its model, a quota, a plane."""
    created_at: Mapped[CreatedAt]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    lease_owner: Mapped[Big | None]
    lease_token: Mapped[Big] = mapped_column(default=0, server_default="0")
    leased_at: Mapped[CreatedAt]
    next_event: Mapped[int] = mapped_column(default=1, server_default="1")


class RunStepRow(Base):
    """One step of a run, or the held-out evaluation after it (step 0: before the first).

    `generation` tells a step that is done again, after its batch was dropped, from the one before: it is part of the
    ids of rollouts and of the keys of training calls. `chosen`: which tasks and why, which try each rollout is at, and
    then the groups that are trained on."""

    __tablename__ = "run_steps"
    __table_args__ = (
        CheckConstraint("kind in ('train', 'held_out')", name="kind"),
        CheckConstraint("phase in ('rolling_out', 'training', 'promoting', 'done', 'dropped')", name="phase"),
    )

    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int]
    phase: Mapped[str]
    chosen: Mapped[dict[str, Any]]
    policy_checkpoint_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("checkpoints.id"))
    """Whose rollouts they are: the head when the step began."""
    operation_ids: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    checkpoint_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("checkpoints.id"))
    metrics: Mapped[dict[str, Any] | None]
    score: Mapped[float | None]
    began_at: Mapped[CreatedAt]
    rolled_out_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class RunEventRow(Base):
    """Something that happened to a run, for a person or a program that follows it."""

    __tablename__ = "run_events"

    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[CreatedAt]
    kind: Mapped[str]
    message: Mapped[str]
    data: Mapped[dict[str, Any] | None]


class FileRow(Base):
    """A file that a client uploaded as the tasks of a run."""

    __tablename__ = "files"
    __table_args__ = (Index(None, "team_id", "created_at", "id"), Index(None, "blob"))

    id: Mapped[UuidKey]
    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id"))
    key_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    blob: Mapped[str]
    num_bytes: Mapped[Big]
    num_lines: Mapped[int]
    kind: Mapped[str]
    """What its lines are: `tasks`, `messages`, `trajectories`."""
    created_at: Mapped[CreatedAt]
