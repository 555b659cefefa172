"""Indexes on tables that are in use."""

from __future__ import annotations

from typing import Any

from alembic import op


def create_index_concurrently(name: str, table: str, columns: list[str], **options: Any) -> None:
    """As `op.create_index`, without keeping writers out; outside of the migration's transaction. One that was given up
    half way leaves an index that is not valid: it is made anew when the migration is repeated."""
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = 0")  # it waits for every transaction, and keeps nobody waiting
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        op.create_index(name, table, columns, postgresql_concurrently=True, **options)
        op.execute("set lock_timeout = '2s'")
