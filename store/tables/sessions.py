"""Who is signed in to the pages."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, CreatedAt


class WebSessionRow(Base):
    """A browser in which somebody signed in with a key. It ends with the key. Of the cookie only its SHA-256 is kept;
    `csrf_token` stands in each form of the session."""

    __tablename__ = "web_sessions"
    __table_args__ = (Index(None, "key_id"), Index(None, "expires_at"))

    token_hash: Mapped[bytes] = mapped_column(primary_key=True)
    key_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"))
    csrf_token: Mapped[str]
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime]
