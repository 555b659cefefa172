"""Pictures: which a team has sent, and which of them a rollout names. Their bytes are blobs of the same name."""

from __future__ import annotations

import uuid

from sqlalchemy import ForeignKey, ForeignKeyConstraint, Index, false
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, Big, CreatedAt


class PictureRow(Base):
    """A picture that a team has sent: a pointer to it is good for teams that have its row, alone.

    `name` is the SHA-256 of its canonical PNG, 64 hexadecimal digits, and names the blob. `is_recorded`: a rollout
    named it once, so that it goes when no rollout does any more.
    """

    __tablename__ = "pictures"
    __table_args__ = (Index(None, "last_used_at"),)

    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("teams.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    width: Mapped[int]
    height: Mapped[int]
    num_bytes: Mapped[Big]
    is_recorded: Mapped[bool] = mapped_column(default=False, server_default=false())
    added_at: Mapped[CreatedAt]
    last_used_at: Mapped[CreatedAt]
    """When it came, or a request named it, to the minute."""


class TracePictureRow(Base):
    """A blob that a rollout's samples, conversations or spans name: a picture of the team, or the bytes that a span had
    in base64, whatever they are."""

    __tablename__ = "trace_pictures"
    __table_args__ = (
        ForeignKeyConstraint(["team_id", "trace_id"], ["traces.team_id", "traces.id"], ondelete="CASCADE"),
        Index(None, "team_id", "name"),
    )

    team_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    trace_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
