"""Sampling requests whose session has ended, or whose client has fallen silent: nobody will ask for their answers."""

from __future__ import annotations

from typing import Any

from store.database import Database
from store.retention.policy import RetentionPolicy

_PAST = """
    from sampling_requests r
    where r.sampling_session_id in (
        select p.id from sampling_sessions p join client_sessions s on s.id = p.session_id
        where s.finished_at < clock_timestamp() - make_interval(secs => %(grace_s)s)
            or s.heartbeat_at < clock_timestamp() - make_interval(secs => %(keep_s)s)
    ) and greatest(r.created_at, r.finished_at) < clock_timestamp() - make_interval(secs => %(grace_s)s)
"""


def forget_requests(database: Database, policy: RetentionPolicy, *, dry_run: bool) -> dict[str, int]:
    """How many requests of which sampling sessions go now."""
    of_session = "r.sampling_session_id as id"
    query = f"select {of_session} {_PAST}" if dry_run else f"delete {_PAST} returning {of_session}"
    values: dict[str, Any] = {"grace_s": policy.grace_s, "keep_s": policy.keep_payloads_s}
    counted = dict[str, int]()
    with database.connection() as connection:
        for row in connection.execute(query.encode(), values):
            counted[row.id] = counted.get(row.id, 0) + 1
    return counted
