"""Nodes of removed models that kept their files for models which began at them, and which nobody needs any more."""

from __future__ import annotations

from uuid import UUID

from store.database import Database
from store.model_removal import NEEDED

# ruff: noqa: S608 - put together from constants

_UNNEEDED = f"""
    select c.id from checkpoints c join models m on m.id = c.model_id
    where m.removed_at is not null and c.status = 'committed' and c.files_removed_at is null and not {NEEDED}
"""
_MARK = f"""
    update checkpoints c
    set files_removed_at = clock_timestamp(), state_removed_at = coalesce(c.state_removed_at, clock_timestamp())
    where c.id = any(%(locked)s) and not {NEEDED}
    returning c.id
"""


def free_files(database: Database, *, dry_run: bool) -> set[UUID]:
    """Nodes that lose their files now. Lock, then look again: a fork shares the lock of the node it starts from."""
    with database.connection() as connection:
        found = {row.id for row in connection.execute(_UNNEEDED.encode())}
        if dry_run or not found:
            return found
        with connection.transaction():
            lock = "select id from checkpoints where id = any(%(found)s) order by id for update"
            connection.execute(lock, {"found": list(found)})
            return {row.id for row in connection.execute(_MARK.encode(), {"locked": list(found)})}
