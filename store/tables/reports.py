"""Jobs, traces and telemetry as clients report them. Ids are minted by clients, so they are unique per team only."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity, Index
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, CreatedAt


class JobRow(Base):
    """A run over a taskset."""

    __tablename__ = "jobs"
    __table_args__ = (Index(None, "team_id", "created_at"),)

    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id"), primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    group_size: Mapped[int | None]
    taskset_id: Mapped[str | None]
    created_at: Mapped[CreatedAt]


class TraceRow(Base):
    """One rollout: its entry and its exit, in whichever order they came."""

    __tablename__ = "traces"
    __table_args__ = (Index(None, "team_id", "job_id", "created_at"),)

    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id"), primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    job_id: Mapped[uuid.UUID | None]
    group_id: Mapped[str | None]
    parent_trace_id: Mapped[str | None]
    task_slug: Mapped[str | None]
    model: Mapped[str | None]
    status: Mapped[str | None]
    reward: Mapped[float | None]
    error: Mapped[str | None]
    stop_reason: Mapped[str | None]
    evaluation_result: Mapped[dict[str, Any] | None]
    extra: Mapped[dict[str, Any] | None]
    created_at: Mapped[CreatedAt]
    entered_at: Mapped[datetime | None]
    exited_at: Mapped[datetime | None]


class TelemetryUploadRow(Base):
    """A batch of spans, kept as it came (zlib-compressed JSON)."""

    __tablename__ = "telemetry_uploads"
    __table_args__ = (Index(None, "team_id", "trace_id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id"))
    trace_id: Mapped[uuid.UUID]
    received_at: Mapped[CreatedAt]
    num_spans: Mapped[int]
    body: Mapped[bytes]
