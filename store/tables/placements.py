"""Runners, and what is placed on them: builds of environments, sessions of them, and whole rollouts."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, CreatedAt, UuidKey


class RunnerRow(Base):
    """A runner process. It lives by its heartbeat; what it holds is in `placements`."""

    __tablename__ = "runners"
    __table_args__ = (Index(None, "heartbeat_at"),)

    id: Mapped[UuidKey]
    team_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("teams.id"))
    """It takes this team's work alone; null: everybody's."""
    key_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id", use_alter=True))
    host: Mapped[str]
    pid: Mapped[int]
    slots: Mapped[int]
    labels: Mapped[list[str]] = mapped_column(ARRAY(Text()), default=list, server_default="{}")
    kinds: Mapped[list[str]] = mapped_column(ARRAY(Text()))
    """What it takes: `build`, `session`, `rollout`."""
    isolation: Mapped[str]
    url: Mapped[str | None]
    """Where servers reach it with the bytes of tunnels; null: it takes no sessions."""
    tunnel_token: Mapped[str | None]
    """What servers show it there. Drawn by the runner when it starts."""
    versions: Mapped[dict[str, Any]]
    """Of Headway, of the SDK, of Python."""
    started_at: Mapped[CreatedAt]
    heartbeat_at: Mapped[CreatedAt]
    stopped_at: Mapped[datetime | None]
    drained_at: Mapped[datetime | None]
    """Since then it takes nothing new."""
    trouble: Mapped[str | None]


class PlacementRow(Base):
    """Something that one runner carries out, in the queue or on a runner. A runner that dies takes it along: a build
    or a rollout is queued again as another attempt, a session has ended. Only the runner that holds the present
    attempt can end it."""

    __tablename__ = "placements"
    __table_args__ = (
        CheckConstraint("kind in ('build', 'session', 'rollout')", name="kind"),
        CheckConstraint("state in ('queued', 'running', 'ended')", name="state"),
        CheckConstraint("outcome in ('completed', 'failed', 'cancelled')", name="outcome"),
        CheckConstraint("(state = 'ended') = (outcome is not null)", name="ended_with_an_outcome"),
        CheckConstraint("state <> 'running' or runner_id is not null", name="running_somewhere"),
        Index(
            "ix_placements_queued",
            "team_id",
            "priority",
            "available_at",
            "id",
            postgresql_where=text("state = 'queued'"),
        ),
        Index("ix_placements_running", "runner_id", postgresql_where=text("state = 'running'")),
        Index("ix_placements_live_of_team", "team_id", postgresql_where=text("state <> 'ended'")),
        Index(None, "build_id"),
        Index(None, "ended_at"),
    )

    id: Mapped[UuidKey]
    team_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("teams.id"))
    """Null: a build of an environment that is everybody's."""
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(default="queued", server_default="queued")
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    """The lowest first."""
    labels: Mapped[list[str]] = mapped_column(ARRAY(Text()), default=list, server_default="{}")
    """The runner has to have them all."""
    build_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("environment_builds.id"))
    """The version that it builds or plays: the current one when it was asked for."""
    timeout_s: Mapped[float]
    """Of one attempt, from when a runner takes it."""
    created_at: Mapped[CreatedAt]
    available_at: Mapped[CreatedAt]
    attempt: Mapped[int] = mapped_column(default=0, server_default="0")
    max_attempts: Mapped[int] = mapped_column(default=3, server_default="3")
    runner_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("runners.id"))
    """Of the present attempt, or of the last."""
    taken_at: Mapped[datetime | None]
    ready_at: Mapped[datetime | None]
    """When its environment answered for the first time."""
    cancelled_at: Mapped[datetime | None]
    """Somebody asked for its end; its runner is to stop it."""
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    error: Mapped[str | None]


class HostedRolloutRow(Base):
    """What a placement of the kind `rollout` is to do, and what its present attempt has reported so far. `args`,
    `agent_config` and `verifier` are JSON as text: they come and go as they were sent.

    A rollout of a run names its place there: `step`, `purpose`, `position` (tasks of the step × members of a group).
    """

    __tablename__ = "hosted_rollouts"
    __table_args__ = (
        Index("uq_hosted_rollouts_trace", "team_id", "trace_id", unique=True),
        CheckConstraint("purpose in ('train', 'held_out')", name="purpose"),
        CheckConstraint("(run_id is null) = (step is null)", name="step_of_a_run"),
        Index("ix_hosted_rollouts_run", "run_id", "step", "purpose", postgresql_where=text("run_id is not null")),
        Index(None, "team_id", "job_id"),
    )

    placement_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("placements.id", ondelete="CASCADE"), primary_key=True)
    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id"))
    trace_id: Mapped[uuid.UUID]
    key_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    """Who submitted it: models that this key does not open stay closed to the rollout."""
    request_digest: Mapped[bytes]
    job_id: Mapped[uuid.UUID]
    group_id: Mapped[str | None]
    parent_trace_id: Mapped[str | None]
    environment: Mapped[str]
    task: Mapped[str]
    slug: Mapped[str | None]
    args: Mapped[str]
    agent_type: Mapped[str]
    agent_config: Mapped[str]
    verifier: Mapped[str | None]
    verifier_build_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("environment_builds.id"))
    """The version of the verifier's environment."""
    runtime_config: Mapped[dict[str, Any] | None]
    reported_exit: Mapped[dict[str, Any] | None]
    """What the present attempt said at its exit; it counts once the runner has ended the placement."""
    run_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("runs.id", use_alter=True))
    step: Mapped[int | None]
    purpose: Mapped[str | None]
    position: Mapped[int | None]


class EnvironmentSessionRow(Base):
    """What a placement of the kind `session` is for: an environment here, its agent at a client, tunnels in between.
    Its public id is the placement's, in hex."""

    __tablename__ = "environment_sessions"
    __table_args__ = (Index(None, "team_id", "trace_id"),)

    placement_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("placements.id", ondelete="CASCADE"), primary_key=True)
    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id"))
    trace_id: Mapped[uuid.UUID | None]
    environment: Mapped[str]
    num_open_tunnels: Mapped[int] = mapped_column(default=0, server_default="0")
    num_tunnels: Mapped[int] = mapped_column(default=0, server_default="0")
    """That were ever opened."""
    tunnel_changed_at: Mapped[CreatedAt]
    """When a tunnel was opened, closed, or seen open by its server last, or when the session was made."""
