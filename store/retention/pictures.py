"""Pictures that nobody names any more: rows go here, their blobs with the next look at the blob store.

A picture stays while a rollout names it, while a trainer may still read it, or a request to sample is open that has it.
Otherwise it stays for a time after it was used last, since a client may train later on what it sampled now; but one
that a rollout named, and none does any more, was deleted with it, and stays no longer than a request lasts.
"""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from typing import Any
from uuid import UUID

from store.database import Database
from store.retention.marking import PAYLOAD_SPENT, spent_values
from store.retention.policy import RetentionPolicy

_OF_NOBODY = f"""
    p.last_used_at < clock_timestamp() - make_interval(
        secs => case when p.is_recorded then %(grace_s)s else greatest(%(keep_pictures_s)s, %(grace_s)s) end
    )
    and not exists (select from trace_pictures t where t.team_id = p.team_id and t.name = p.name)
    and (p.team_id, p.name) not in (
        select m.team_id, unnest(o.pictures) from operations o join models m on m.id = o.model_id
        where o.pictures is not null and not ({PAYLOAD_SPENT})
    )
    and (p.team_id, p.name) not in (
        select r.team_id, unnest(r.pictures) from sampling_requests r where r.pictures is not null and r.state = 'open'
    )
"""
_SPENT = f"update operations o set pictures = null where o.pictures is not null and {PAYLOAD_SPENT}"


def forget(database: Database, policy: RetentionPolicy, *, dry_run: bool) -> set[tuple[UUID, str]]:
    """Team and name of those that go now."""
    values: dict[str, Any] = {**spent_values(policy), "grace_s": policy.grace_s}
    values["keep_pictures_s"] = policy.keep_pictures_s
    select = f"select p.team_id, p.name from pictures p where {_OF_NOBODY}"
    delete = f"delete from pictures p where {_OF_NOBODY} returning p.team_id, p.name"
    with database.connection() as connection:
        if not dry_run:
            connection.execute(_SPENT.encode(), values)
        found = connection.execute((select if dry_run else delete).encode(), values)
        return {(row.team_id, row.name) for row in found}
