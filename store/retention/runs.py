"""Names that have expired, and runs of which nothing was saved."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from store.database import Connection, Database
from store.listed_models import LISTED
from store.retention.policy import RetentionPolicy

_EXPIRED = "from checkpoint_names n where n.expires_at <= clock_timestamp()"

# Its session has ended or fallen silent, no call of its waits or came lately, and nobody pinned or went on from a node.
_UNSAVED = f"""
    from models m join client_sessions s on s.id = m.session_id
    where m.removed_at is null and not {LISTED}
        and greatest(s.finished_at, s.heartbeat_at, m.created_at)
            < clock_timestamp() - make_interval(secs => %(keep_s)s)
        and not exists (
            select from operations o where o.model_id = m.id and (
                o.state in ('held', 'queued', 'running')
                or o.created_at >= clock_timestamp() - make_interval(secs => %(keep_s)s)
            )
        )
        and not exists (
            select from checkpoints c
            join checkpoints r on r.files_id = c.id and r.files_id <> r.id and r.model_id <> m.id
            where c.model_id = m.id and r.status = 'committed'
        )
        and not exists (select from checkpoints c where c.model_id = m.id and c.pinned_at is not null)
"""  # noqa: S608 - put together from constants

# The name is free for another model. The head is no node any more whose files could be read.
_REMOVE = """
    update models
    set removed_at = clock_timestamp(), slug = id::text, name = id::text,
        head_version = head_version + 1, head_checkpoint_id = null, served_checkpoint_id = null
    where id = %(model_id)s
"""
_REMOVE_FILES = """
    update checkpoints
    set files_id = id, files_model_id = model_id, files_removed_at = coalesce(files_removed_at, clock_timestamp()),
        state_removed_at = coalesce(state_removed_at, clock_timestamp())
    where model_id = %(model_id)s
"""


def forget_expired_names(database: Database, *, dry_run: bool) -> set[UUID]:
    """Names whose time is over; their paths have been refused since then."""
    with database.connection() as connection:
        what = "select n.id" if dry_run else "delete"
        returned = "" if dry_run else "returning n.id"
        return _ids(connection, f"{what} {_EXPIRED} {returned}", {})


def remove_unsaved_runs(database: Database, policy: RetentionPolicy, *, dry_run: bool) -> set[UUID]:
    """Runs that are listed nowhere from now on; their files and payloads are removed as those of other models are."""
    with database.connection() as connection:
        found = _ids(connection, f"select m.id {_UNSAVED}", {"keep_s": policy.keep_unsaved_runs_s})
        if not dry_run:
            found = {model_id for model_id in found if _remove(connection, policy, model_id)}
    return found


def _remove(connection: Connection, policy: RetentionPolicy, model_id: UUID) -> bool:
    """Lock, then look again: whoever held the lock before may have saved something."""
    with connection.transaction():
        connection.execute("select from models where id = %(model_id)s for update", {"model_id": model_id})
        still = f"select m.id {_UNSAVED} and m.id = %(model_id)s"
        values = {"keep_s": policy.keep_unsaved_runs_s, "model_id": model_id}
        if not _ids(connection, still, values):
            return False
        connection.execute(_REMOVE, {"model_id": model_id})
        connection.execute(_REMOVE_FILES, {"model_id": model_id})
        return True


def _ids(connection: Connection, query: str, values: Mapping[str, object]) -> set[UUID]:
    return {row.id for row in connection.execute(query.encode(), values)}
