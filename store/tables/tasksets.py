"""Tasksets that a team shares. A task is kept as the text that it is exported as: clients compare by content."""

from __future__ import annotations

import uuid

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, Big, CreatedAt, UuidKey


class TasksetRow(Base):
    """A named list of tasks. `num_tasks` and `num_bytes` are those of its rows, counted when it changes."""

    __tablename__ = "tasksets"
    __table_args__ = (UniqueConstraint("team_id", "name"), Index(None, "team_id", "created_at", "id"))

    id: Mapped[UuidKey]
    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id"))
    name: Mapped[str]
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[CreatedAt]
    num_tasks: Mapped[int] = mapped_column(default=0, server_default="0")
    num_bytes: Mapped[Big] = mapped_column(default=0, server_default="0")


class TasksetTaskRow(Base):
    """One task. `content` is JSON as text, in ASCII: jsonb would lose the order of keys and the form of numbers, and
    cannot hold a NUL character that is escaped."""

    __tablename__ = "taskset_tasks"
    __table_args__ = (Index(None, "taskset_id", "position"),)

    taskset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tasksets.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    """The task's slug."""
    position: Mapped[Big]
    """Order of upload; not without gaps."""
    content: Mapped[str]
