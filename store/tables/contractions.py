"""Which migrations took something away that older releases used."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, CreatedAt


class ContractionRow(Base):
    """A migration after which releases that know less than `oldest_revision` no longer run (`store.schema`)."""

    __tablename__ = "contractions"

    revision: Mapped[str] = mapped_column(primary_key=True)
    oldest_revision: Mapped[str]
    oldest_release: Mapped[str]
    """The first release whose newest migration is `oldest_revision`, for the sentence in which others are refused."""
    at: Mapped[CreatedAt]
