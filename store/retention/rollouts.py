"""Recorded rollouts that are past their time: rows go here, their blobs with the next look at the blob store.

A trace is locked by its deletion, as by everybody who records something of it. What is recorded afterwards begins a
trace anew.
"""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from typing import Any
from uuid import UUID

from store.database import Connection, Database
from store.retention.policy import RetentionPolicy
from store.run_states import IS_LIVE

_AT_ONCE = 1000

_NOT_PINNED = f"""
    t.pinned_at is null
    and not exists (select from jobs p where p.team_id = t.team_id and p.id = t.job_id and p.pinned_at is not null)
    and not exists (
        select from hosted_rollouts h join runs r on r.id = h.run_id
        where h.team_id = t.team_id and h.trace_id = t.id and {IS_LIVE}
    )
"""
_OLD = f"{_NOT_PINNED} and t.last_activity_at < clock_timestamp() - make_interval(secs => %(keep_traces_s)s)"

# Of each team all but the newest jobs. A job with a rollout of the last hour is at work.
_PAST_JOBS = """
    select n.team_id, n.id from (
        select j.team_id, j.id, j.pinned_at, row_number() over (
            partition by j.team_id order by j.created_at desc, j.id
        ) as place from jobs j
    ) n
    where n.place > %(keep_last_jobs)s and n.pinned_at is null and not exists (
        select from traces r where r.team_id = n.team_id and r.job_id = n.id
            and r.last_activity_at > clock_timestamp() - interval '1 hour'
    )
"""
_OF_PAST_JOBS = f"{_NOT_PINNED} and (t.team_id, t.job_id) in ({_PAST_JOBS})"
_EMPTY = "not exists (select from traces t where t.team_id = j.team_id and t.job_id = j.id)"

Ids = set[tuple[UUID, UUID]]
"""Team and id."""


def forget(database: Database, policy: RetentionPolicy, *, dry_run: bool) -> dict[str, Ids]:
    """Delete what the policy gives up, and say what: rollouts, then jobs that have none left."""
    traces, jobs, values = set[tuple[UUID, UUID]](), set[tuple[UUID, UUID]](), {"at_once": _AT_ONCE}
    with database.connection() as connection:
        if policy.keep_traces_s is not None:
            traces |= _forget_traces(connection, _OLD, {**values, "keep_traces_s": policy.keep_traces_s}, dry_run)
        if policy.keep_last_jobs is not None:
            values["keep_last_jobs"] = policy.keep_last_jobs
            traces |= _forget_traces(connection, _OF_PAST_JOBS, values, dry_run)
            jobs = _forget_jobs(connection, values, dry_run)
    return {"rollout": traces, "job": jobs}


def _forget_traces(connection: Connection, condition: str, values: dict[str, Any], dry_run: bool) -> Ids:
    """In portions, so that nobody waits long for a lock."""
    find = f"select t.team_id, t.id from traces t where {condition}"
    if dry_run:
        return _ids(connection, find, values)
    found: Ids = set()
    while True:
        delete = f"""
            delete from traces t where (t.team_id, t.id) in (
                {find} order by t.team_id, t.id limit %(at_once)s for update of t
            ) and {condition} returning t.team_id, t.id
        """
        if not (gone := _ids(connection, delete, values)):
            return found
        found |= gone


def _forget_jobs(connection: Connection, values: dict[str, Any], dry_run: bool) -> Ids:
    if dry_run:  # its rollouts would go first
        kept = f"""
            select from traces t where t.team_id = j.team_id and t.job_id = j.id and not ({_OF_PAST_JOBS})
        """
        find = f"select j.team_id, j.id from jobs j where (j.team_id, j.id) in ({_PAST_JOBS}) and not exists ({kept})"
        return _ids(connection, find, values)
    delete = f"""
        delete from jobs j where (j.team_id, j.id) in ({_PAST_JOBS}) and {_EMPTY} returning j.team_id, j.id
    """
    return _ids(connection, delete, values)


def _ids(connection: Connection, query: str, values: dict[str, Any]) -> Ids:
    return {(row.team_id, row.id) for row in connection.execute(query.encode(), values)}
