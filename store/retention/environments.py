"""Uploads that nobody deployed, and archives and logs of versions that serve no more.

An archive is needed while its build has not ended, serves, or is played by something that is queued or runs. After
that it is kept for as long as other large requests are. The log of an environment's newest version is kept, whatever
became of it.
"""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from store.database import Connection, Database
from store.retention.policy import RetentionPolicy

_ABANDONED = """
    from environment_builds b
    where b.state in ('awaiting_upload', 'uploaded')
        and b.created_at < clock_timestamp() - make_interval(secs => %(keep_s)s)
"""
_PAST = """
    b.archive_blob is not null and b.ended_at < clock_timestamp() - make_interval(secs => %(keep_s)s)
    and not exists (select from environments e where e.current_build_id = b.id and e.removed_at is null)
    and not exists (select from placements p where p.build_id = b.id and p.state <> 'ended')
"""
_NEWEST = """
    not exists (
        select from environment_builds n where n.environment_id = b.environment_id and n.version > b.version
    )
"""
_OLD_LOGS = f"""
    from environment_builds b where b.num_log_lines > 0
    and b.ended_at < clock_timestamp() - make_interval(secs => %(keep_s)s)
    and not exists (select from environments e where e.current_build_id = b.id)
    and not {_NEWEST}
    and exists (select from build_log_lines l where l.build_id = b.id)
"""


def forget_uploads(database: Database, policy: RetentionPolicy, *, dry_run: bool) -> set[UUID]:
    """Uploads that were never deployed."""
    statement = f"select b.id {_ABANDONED}" if dry_run else f"delete {_ABANDONED} returning b.id"
    with database.connection() as connection:
        return _ids(connection, statement, {"keep_s": policy.keep_payloads_s})


def drop_archives(database: Database, policy: RetentionPolicy, *, dry_run: bool) -> set[UUID]:
    """Builds whose archives are needed no more; the blobs go with the next look at the blob store."""
    statement = f"select b.id from environment_builds b where {_PAST}"
    if not dry_run:
        statement = f"update environment_builds b set archive_blob = null where {_PAST} returning b.id"
    with database.connection() as connection:
        return _ids(connection, statement, {"keep_s": policy.keep_payloads_s})


def drop_logs(database: Database, policy: RetentionPolicy, *, dry_run: bool) -> set[UUID]:
    """Builds whose logs nobody looks for any more: of versions that do not serve, and are not the newest."""
    with database.connection() as connection:
        old = _ids(connection, f"select b.id {_OLD_LOGS}", {"keep_s": policy.keep_planes_s})
        if old and not dry_run:
            connection.execute(b"delete from build_log_lines where build_id = any(%(old)s)", {"old": list(old)})
        return old


def _ids(connection: Connection, query: str, values: Mapping[str, object]) -> set[UUID]:
    return {row.id for row in connection.execute(query.encode(), values)}
