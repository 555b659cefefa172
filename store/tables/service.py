"""Which service this database is."""

from __future__ import annotations

import uuid

from sqlalchemy import CheckConstraint, text, true
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base


class ServiceRow(Base):
    """One row, made when it is first asked for. A store that keeps its id is this service's (`store.ownership`); a
    backup does not take it along, for what is restored is another service."""

    __tablename__ = "service"
    __table_args__ = (CheckConstraint("is_this", name="is_this"),)

    is_this: Mapped[bool] = mapped_column(primary_key=True, default=True, server_default=true())
    id: Mapped[uuid.UUID] = mapped_column(server_default=text("gen_random_uuid()"))
