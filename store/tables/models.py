"""The catalog and the checkpoint tree."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, Text, text, true
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, Big, CreatedAt, UuidKey
from wire.adapter_names import adapter_name


class ModelRow(Base):
    """A catalog entry: a base model (no team, seen by all), or a team's trainable fork of one.

    `head_checkpoint_id` null: the base weights are served. `head_version` counts every move of the head, so that a
    trainer notices a move there and back again. `next_sequence` numbers the model's operations.
    """

    __tablename__ = "models"
    __table_args__ = (
        CheckConstraint("(team_id is null) = (base_id is null)", name="base_has_no_team"),
        CheckConstraint("(base_id is null) = (weights is not null or upstream is not null)", name="base_has_weights"),
        CheckConstraint("weights is null or upstream is null", name="weights_or_upstream"),
        Index("uq_models_team_slug", "team_id", text("lower(slug)"), unique=True, postgresql_nulls_not_distinct=True),
        CheckConstraint("paused_by in ('team', 'admin', 'guard')", name="paused_by"),
        Index("ix_models_lower_slug", text("lower(slug)")),
        Index("ix_models_lower_name", text("lower(name)")),
        Index("ix_models_last_segment", text("lower(regexp_replace(slug, '^.*/', ''))")),
        Index(None, "team_id", "created_at", "id"),
        Index("ix_models_bases", "created_at", postgresql_where=text("weights is not null")),
        Index(None, "base_id"),
        Index(None, "forked_from_id"),
        Index("uq_models_session", "session_id", "session_index", unique=True),
        CheckConstraint("(session_id is null) = (session_index is null)", name="session_index"),
    )

    id: Mapped[UuidKey]
    team_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("teams.id"))
    slug: Mapped[str]
    name: Mapped[str]
    description: Mapped[str | None]
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text()), default=list, server_default="{}")
    created_at: Mapped[CreatedAt]

    # A base model: where its weights are (a Hugging Face id or a path), and what a worker read off them.
    weights: Mapped[str | None]
    upstream: Mapped[dict[str, Any] | None]
    """Another vendor's model instead: where it is reached, and which file holds the key. Sampled, never trained."""
    info: Mapped[dict[str, Any] | None]

    # A fork: its base, its adapter's shape, and its place in its own tree.
    base_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("models.id"))
    forked_from_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("models.id"))
    lora: Mapped[dict[str, Any] | None]
    head_checkpoint_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("checkpoints.id", use_alter=True), default=None
    )
    head_version: Mapped[Big] = mapped_column(default=0, server_default="0")
    next_sequence: Mapped[Big] = mapped_column(default=1, server_default="1")
    serves_head: Mapped[bool] = mapped_column(default=True, server_default=true())
    """Steps promote their checkpoint, and the slug stands for the head. Otherwise steps move the head alone, and the
    slug stands for `served_checkpoint_id` (null: the base weights)."""
    served_checkpoint_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("checkpoints.id", use_alter=True), default=None
    )

    @property
    def served_id(self) -> uuid.UUID | None:
        """The checkpoint that the model's name stands for (None: the base weights)."""
        return self.head_checkpoint_id if self.serves_head else self.served_checkpoint_id

    # A training run: a model that a client made in one of its sessions, as the session's model number so and so. Its
    # operations carry the client's own sequence numbers.
    session_id: Mapped[str | None] = mapped_column(ForeignKey("client_sessions.id"), default=None)
    session_index: Mapped[int | None] = mapped_column(default=None)
    next_client_sequence: Mapped[Big] = mapped_column(default=1, server_default="1")
    """All lower numbers are in the log, or did not come in time and were given up."""
    user_metadata: Mapped[dict[str, Any] | None]
    removed_at: Mapped[datetime | None]
    """It was deleted, or is a run that saved nothing and has ended long ago: it is listed nowhere, and its files and
    payloads are gone. Rollouts and runs go on to name it."""

    # Since when training calls are refused, why, and who must let them in again: `team`, `admin` or `guard`.
    paused_at: Mapped[datetime | None]
    pause_reason: Mapped[str | None]
    paused_by: Mapped[str | None]


class CheckpointRow(Base):
    """One node of a model's tree. Status `staged` until the one transaction that also moves the head.

    `files_id` names the folder in the checkpoint store that holds the files: the node's own id, or, for the root of
    a fork, the node it was forked from. `manifest` repeats what the store's manifest says (paths, sizes, sha256).
    """

    __tablename__ = "checkpoints"
    __table_args__ = (
        Index(None, "model_id", "created_at"),
        Index(None, "model_id", "name"),
        Index("ix_checkpoints_commits", "model_id", "committed_at", "step", "id"),
        Index("ix_checkpoints_copies", "files_id", postgresql_where=text("files_id <> id")),
        Index("ix_checkpoints_copies_of_model", "files_model_id", postgresql_where=text("files_id <> id")),
        CheckConstraint("status in ('staged', 'committed', 'rejected')", name="status"),
        Index(
            "ix_checkpoints_unchecked",
            "model_id",
            postgresql_where=text("guard_checked_at is null and status = 'committed'"),
        ),
    )

    id: Mapped[UuidKey]
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id"))
    parent_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("checkpoints.id"))
    files_id: Mapped[uuid.UUID]
    files_model_id: Mapped[uuid.UUID]
    step: Mapped[int]
    name: Mapped[str]
    status: Mapped[str]
    manifest: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    num_traces: Mapped[int | None]
    num_datums: Mapped[int | None]
    num_tokens: Mapped[Big | None]
    mean_reward: Mapped[float | None]
    learning_rate: Mapped[float | None]
    loss_fn: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    committed_at: Mapped[datetime | None]

    # Retention: see `store.retention`. What is marked here is gone from the store, or about to be.
    pinned_at: Mapped[datetime | None]
    state_removed_at: Mapped[datetime | None]
    """The optimizer state was thinned: whoever goes on from here starts with fresh moments."""
    files_removed_at: Mapped[datetime | None]
    """Adapter and state were thinned: the node is history, and no head can point at it any more."""

    guard_checked_at: Mapped[datetime | None]
    """When the guard looked at it: once (`server.guard`)."""

    operation_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("operations.id", use_alter=True), default=None)
    """The step that made it. Null for the root of a fork, and in rows that an earlier version wrote."""
    is_saved: Mapped[bool] = mapped_column(default=True, server_default=true())
    """Its files are in the store, unless retention removed them. Otherwise it is computed again, by replay from the
    nearest saved node above it, before it is used."""

    @property
    def adapter_name(self) -> str:
        """The immutable name under which samplers serve these weights."""
        return adapter_name(self.files_id)


class CheckpointNameRow(Base):
    """A name that a client gave to a checkpoint: `tinker://RUN/weights/NAME` and the like. A name can be moved to
    another checkpoint, and ends at `expires_at`; the checkpoint itself stays as long as retention keeps it."""

    __tablename__ = "checkpoint_names"
    __table_args__ = (
        CheckConstraint("kind in ('training', 'sampler', 'external')", name="kind"),
        Index("uq_checkpoint_names_model_kind_name", "model_id", "kind", "name", unique=True),
        Index(None, "checkpoint_id"),
        Index(None, "created_at", "id"),
    )

    id: Mapped[UuidKey]
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id"))
    kind: Mapped[str]
    """Which use it is for: `training` and `sampler` may have the same name."""
    name: Mapped[str]
    checkpoint_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("checkpoints.id"))
    size_bytes: Mapped[Big]
    user_metadata: Mapped[dict[str, Any] | None]
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime | None]
    published_at: Mapped[datetime | None]
    """Since then every team may load and sample it; only its own may change it."""
