"""Environments that runners play: their names, their versions, and what building one wrote."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, false
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, Big, CreatedAt, UuidKey


class EnvironmentRow(Base):
    """An environment by its normalized name. Without a team: every team may run it, and only operators change it.

    `next_version` numbers its builds; those that fail keep their number, and `current_build_id` stays the last that
    succeeded.
    """

    __tablename__ = "environments"
    __table_args__ = (
        Index("uq_environments_team_name", "team_id", "name", unique=True, postgresql_nulls_not_distinct=True),
    )

    id: Mapped[UuidKey]
    team_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("teams.id"))
    name: Mapped[str]
    declared_name: Mapped[str]
    """As its code spells it; tasks name it so."""
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[CreatedAt]
    next_version: Mapped[int] = mapped_column(default=1, server_default="1")
    current_build_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("environment_builds.id", use_alter=True), default=None
    )
    variables: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    """Its secrets: they go into the environment of its processes, and to nobody else."""
    runtime_config: Mapped[dict[str, Any] | None]
    removed_at: Mapped[datetime | None]
    """Nothing new runs on it. A deploy of the same name brings it back."""


class EnvironmentBuildRow(Base):
    """One deployment: uploaded, triggered, built by a runner. It becomes a version of its environment when it is
    triggered; what it is before that is an upload that waits."""

    __tablename__ = "environment_builds"
    __table_args__ = (
        CheckConstraint(
            "state in ('awaiting_upload', 'uploaded', 'queued', 'building', 'succeeded', 'failed', 'cancelled')",
            name="state",
        ),
        CheckConstraint("source in ('upload', 'folder', 'image', 'builtin')", name="source"),
        CheckConstraint("(environment_id is null) = (version is null)", name="version"),
        Index("uq_environment_builds_environment_version", "environment_id", "version", unique=True),
        Index(None, "archive_blob"),
        Index(None, "created_at"),
    )

    id: Mapped[UuidKey]
    team_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("teams.id"))
    key_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    state: Mapped[str]
    source: Mapped[str]
    created_at: Mapped[CreatedAt]
    upload_token_hash: Mapped[bytes | None]
    """The credential in the upload's address."""
    archive_blob: Mapped[str | None]
    """A gzip tar, by its SHA-256."""
    archive_bytes: Mapped[Big | None]
    image: Mapped[str | None]
    environment_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("environments.id"))
    version: Mapped[int | None]
    declared_name: Mapped[str | None]
    request_digest: Mapped[bytes | None]
    """Of the body that triggered it: the same again is answered the same, another is refused."""
    triggered_at: Mapped[datetime | None]
    no_cache: Mapped[bool] = mapped_column(default=False, server_default=false())
    build_args: Mapped[dict[str, Any] | None]
    build_secrets: Mapped[dict[str, Any] | None]
    """Null as soon as the build has ended."""
    runtime_config: Mapped[dict[str, Any] | None]
    manifest: Mapped[dict[str, Any] | None]
    """What it offers: `tasks` with the schemas of their arguments, `capabilities`."""
    error_message: Mapped[str | None]
    ended_at: Mapped[datetime | None]
    num_log_lines: Mapped[int] = mapped_column(default=0, server_default="0")


class BuildLogLineRow(Base):
    """One line that a build wrote."""

    __tablename__ = "build_log_lines"

    build_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("environment_builds.id", ondelete="CASCADE"), primary_key=True
    )
    attempt: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    """From 0 in each attempt."""
    at: Mapped[CreatedAt]
    message: Mapped[str]
