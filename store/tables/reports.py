"""Jobs and traces as clients report them. Ids are minted by clients, so they are unique per team only."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import Computed, ForeignKey, Index, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, Big, CreatedAt


class JobRow(Base):
    """A run over a taskset."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "team_id", "created_at"),
        Index("ix_jobs_evaluations", "created_at", postgresql_where=text("is_evaluation is not false")),
    )

    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id"), primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    group_size: Mapped[int | None]
    taskset_id: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    pinned_at: Mapped[datetime | None]
    """Pinned jobs and their traces outlive the retention policy."""

    # An evaluation is scored and not trained on. Null: nobody has said or found out yet (`server.evals.jobs`).
    is_evaluation: Mapped[bool | None]
    benchmark: Mapped[str | None]
    scored_at: Mapped[datetime | None]
    """When its rollouts were last summed up."""


RUNNING = "status is null and timed_out_at is null"
"""SQL: a rollout that neither exited nor was closed for its silence."""
REWARD = "coalesce(reward, evaluated_reward)"
"""SQL: what the exit said, or the evaluate step where no exit says."""

LABELLED = "labels <> '{}'"
"""SQL: a rollout with a label."""
UNREAD = "text_read_until is null or text_read_until < last_activity_at"
"""SQL: a rollout of which something is not among the texts that can be searched."""


class TraceRow(Base):
    """One rollout: its entry and its exit, in whichever order they came, and what was recorded of it.

    `status` is what the exit said. A rollout of which nothing was reported any more has `timed_out_at` instead, until
    an exit comes after all. `evaluated_reward` is the score of its evaluate step, which counts where no exit brings a
    reward.

    `num_turns` counts agent steps with tokens that telemetry brought, `num_samples` the distinct samples on record
    (`store.tables.rollouts`), whose prompts are counted whole. `checkpoint_ids`: what served them. `flags` names what
    was odd about uploads.
    """

    __tablename__ = "traces"
    __table_args__ = (
        Index(None, "team_id", "job_id", "created_at"),
        Index(None, "team_id", "created_at", "id"),
        Index(None, "team_id", "model_id", "created_at"),
        Index(None, "team_id", "task_slug", "created_at"),
        Index(None, "team_id", "group_id"),
        Index(None, "checkpoint_ids", postgresql_using="gin"),
        Index(None, "team_id", "status", "created_at", "id"),
        Index("ix_traces_reward", "team_id", text(REWARD)),
        Index("ix_traces_without_samples", "team_id", "created_at", "id", postgresql_where=text("not has_samples")),
        Index("ix_traces_running", "team_id", "job_id", postgresql_where=text(RUNNING)),
        Index("ix_traces_labels", "labels", postgresql_using="gin", postgresql_where=text(LABELLED)),
        Index("ix_traces_unread", "created_at", postgresql_where=text("is_unread")),
    )

    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id"), primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    job_id: Mapped[uuid.UUID | None]
    group_id: Mapped[str | None]
    parent_trace_id: Mapped[str | None]
    task_slug: Mapped[str | None]
    model: Mapped[str | None]
    model_id: Mapped[uuid.UUID | None]
    """What `model` named when it was first said; of the gateway's record, where there is one."""
    status: Mapped[str | None]
    reward: Mapped[float | None]
    error: Mapped[str | None]
    stop_reason: Mapped[str | None]
    evaluation_result: Mapped[dict[str, Any] | None]
    extra: Mapped[dict[str, Any] | None]
    labels: Mapped[list[str]] = mapped_column(ARRAY(Text()), default=list, server_default="{}")
    created_at: Mapped[CreatedAt]
    entered_at: Mapped[datetime | None]
    exited_at: Mapped[datetime | None]

    attempt: Mapped[int | None]
    """Of a rollout that runners carry out: the one that is under way, or was the last. Of others, null."""
    last_activity_at: Mapped[CreatedAt]
    text_read_until: Mapped[datetime | None]
    """The `last_activity_at` up to which its texts can be searched (`TraceTextRow`)."""
    is_unread: Mapped[bool] = mapped_column(Computed(UNREAD, persisted=True))
    """For its index: one that named `last_activity_at` would be written with every sample."""
    timed_out_at: Mapped[datetime | None]
    pinned_at: Mapped[datetime | None]
    evaluated_reward: Mapped[float | None]
    num_turns: Mapped[int] = mapped_column(default=0, server_default="0")
    num_samples: Mapped[int] = mapped_column(default=0, server_default="0")
    has_samples: Mapped[bool] = mapped_column(Computed("num_samples > 0", persisted=True))
    """For its index: an index on the count itself would be written with every sample."""
    num_prompt_tokens: Mapped[Big] = mapped_column(default=0, server_default="0")
    num_output_tokens: Mapped[Big] = mapped_column(default=0, server_default="0")
    checkpoint_ids: Mapped[list[uuid.UUID]] = mapped_column(ARRAY(Uuid()), default=list, server_default="{}")
    flags: Mapped[list[str]] = mapped_column(ARRAY(Text()), default=list, server_default="{}")
