"""Which servers, trainers and samplers are there, and what they hold."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, false
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, CreatedAt, UuidKey


class ServerRow(Base):
    """A server process, by the number that it holds a lock of while it lives (`store.planes.presence`)."""

    __tablename__ = "servers"

    number: Mapped[int] = mapped_column(BigInteger(), primary_key=True, autoincrement=False)
    host: Mapped[str]
    pid: Mapped[int]
    details: Mapped[dict[str, Any]]
    """What it serves with, as of `wire.loaded`."""
    started_at: Mapped[CreatedAt]
    seen_at: Mapped[CreatedAt]
    """Renewed while it lives."""


class TrainerRow(Base):
    """A trainer process. `losses` lists what it can compute: name to hyperparameters and defaults."""

    __tablename__ = "trainers"
    __table_args__ = (Index(None, "base_id", "heartbeat_at"),)

    id: Mapped[UuidKey]
    base_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id"))
    host: Mapped[str]
    pid: Mapped[int]
    losses: Mapped[dict[str, Any]]
    is_loading: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It has not read its base yet and can train nothing so far."""
    details: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    """What it has loaded, as of `wire.loaded`; empty while it loads."""
    started_at: Mapped[CreatedAt]
    heartbeat_at: Mapped[CreatedAt]
    stopped_at: Mapped[datetime | None]
    drained_at: Mapped[datetime | None]
    """Since then it takes no operation and keeps no lease beyond the one under way."""


class TrainerStartRow(Base):
    """That a trainer was asked for, for a base without one; gone once a trainer is ready. Whoever updates `next_at`
    asks, the others wait until then."""

    __tablename__ = "trainer_starts"

    base_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id"), primary_key=True)
    wanted_at: Mapped[datetime | None]
    """A trainer is needed although nothing is queued: only a trainer can report what the base allows."""
    asked_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    next_at: Mapped[CreatedAt]
    error: Mapped[str | None]


class SamplerRow(Base):
    """A sampler process and where the gateway reaches it."""

    __tablename__ = "samplers"
    __table_args__ = (Index(None, "base_id", "heartbeat_at"),)

    id: Mapped[UuidKey]
    base_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id"))
    host: Mapped[str]
    pid: Mapped[int]
    url: Mapped[str]
    backend: Mapped[str]
    details: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    """What it has loaded, as of `wire.loaded`."""
    started_at: Mapped[CreatedAt]
    heartbeat_at: Mapped[CreatedAt]
    stopped_at: Mapped[datetime | None]
    drained_at: Mapped[datetime | None]
    """Since then it gets no new request and loads no new adapter."""
    trouble: Mapped[str | None]
    """Why it runs and can generate nothing, or why it has given up."""


class SamplerDemandRow(Base):
    """What one server process is asked to sample from a base. Its counts hold while it goes on to report; `asked_at`
    outlives it (`store.planes.sampler_demand`)."""

    __tablename__ = "sampler_demands"

    base_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    server: Mapped[int] = mapped_column(BigInteger(), primary_key=True, autoincrement=False)
    """Its number, as of `store.planes.presence`."""
    asked_at: Mapped[CreatedAt]
    """When a request for the base was last under way there."""
    running: Mapped[int] = mapped_column(default=0, server_default="0")
    """Sequences at samplers."""
    waiting: Mapped[int] = mapped_column(default=0, server_default="0")
    """Sequences that wait for a sampler."""
    seen_at: Mapped[CreatedAt]


class SamplerAdapterRow(Base):
    """An adapter that a sampler has loaded, or could not load, and why."""

    __tablename__ = "sampler_adapters"
    __table_args__ = (
        CheckConstraint("state in ('loaded', 'failed')", name="state"),
        Index(None, "adapter"),
    )

    sampler_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("samplers.id", ondelete="CASCADE"), primary_key=True)
    adapter: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    error: Mapped[str | None]
    at: Mapped[CreatedAt]


class AdapterWantRow(Base):
    """A checkpoint that samplers shall hold for a while though no head points at it: a pin, or the next head."""

    __tablename__ = "adapter_wants"

    checkpoint_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("checkpoints.id"), primary_key=True)
    until: Mapped[datetime]
