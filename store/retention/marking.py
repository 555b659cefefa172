"""Which rows lose their files: decided and written down here, in transactions, before anything is deleted.

With `dry_run` the same rows are found and nothing is written.
"""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from typing import Any
from uuid import UUID

from store.database import Connection, Database
from store.oplog.conditions import PAYLOAD_NEEDED
from store.retention.policy import RetentionPolicy

_CALLER_WAITS_S = 900.0
_CLIENT_AWAY_S = 24 * 3600.0
"""Without a heartbeat: then nobody fetches the answers of a client that numbers its requests any more."""

_MODELS = "select id from models where base_id is not null order by id"

# No key update, as an update of the head takes it: neither a step, a set_head nor a fork can be half way through.
_LOCK_MODEL = "select id from models where id = %(model_id)s for no key update"

# A checkpoint that nobody may still want whole: not a head, about to be one, pinned, named, forked from, new, every
# Nth, or what a node without files is computed from.
_THINNABLE = """
    c.model_id = %(model_id)s and c.status = 'committed' and c.id = c.files_id and c.files_removed_at is null
    and c.pinned_at is null
    and (%(every)s = 0 or c.step %% greatest(%(every)s, 1) <> 0)
    and c.id not in (
        select id from checkpoints where model_id = %(model_id)s and status = 'committed'
        order by committed_at desc nulls last, step desc, id limit %(last)s
    )
    and not exists (
        select from models m where m.id = c.model_id and c.id in (m.head_checkpoint_id, m.served_checkpoint_id)
    )
    and not exists (
        select from checkpoint_names n where n.checkpoint_id = c.id and {is_named}
            and (n.expires_at is null or n.expires_at > clock_timestamp())
    )
    and not exists (select from checkpoints r where r.files_id = c.id and r.files_id <> r.id and r.status = 'committed')
    and not exists (select from adapter_wants w where w.checkpoint_id = c.id and w.until > clock_timestamp())
    and not exists (
        select from checkpoints u
        where u.model_id = c.model_id and u.parent_id = c.id and u.status = 'committed' and not u.is_saved
            and u.files_removed_at is null
    )
"""

# A name for training needs the optimizer state, the others the adapter alone. What an open session samples has no name.
_STATE_THINNABLE = _THINNABLE.replace("{is_named}", "n.kind = 'training'")
_WHOLE_THINNABLE = f"""
    {_THINNABLE.replace("{is_named}", "true")}
    and not exists (
        select from sampling_sessions p join client_sessions s on s.id = p.session_id
        where p.checkpoint_id = c.id and s.finished_at is null
            and s.heartbeat_at > clock_timestamp() - interval '1 day'
    )
"""

# A node without files that is neither wanted nor on the way to one that is, and whose payloads would be old enough.
_UNSAVED_THINNABLE = """
    c.model_id = %(model_id)s and c.status = 'committed' and not c.is_saved and c.files_removed_at is null
    and c.id not in (
        with recursive kept as (
            select k.id, k.parent_id from checkpoints k
            where k.model_id = %(model_id)s and k.status = 'committed' and not k.is_saved
                and k.files_removed_at is null
                and (
                    k.pinned_at is not null
                    or k.committed_at > clock_timestamp() - make_interval(secs => %(keep_payloads_s)s)
                    or exists (select from models m where m.id = k.model_id and m.head_checkpoint_id = k.id)
                )
            union
            select p.id, p.parent_id from kept join checkpoints p on p.id = kept.parent_id where not p.is_saved
        )
        select id from kept
    )
"""

_HAS_STATE = """
    c.state_removed_at is null
    and exists (select from jsonb_object_keys(coalesce(c.manifest -> 'files', '{}')) path where path like 'state/%%')
"""

PAYLOAD_SPENT = f"""
    o.state in ('done', 'failed', 'superseded')
    and coalesce(o.finished_at, o.created_at) < clock_timestamp() - make_interval(secs => %(keep_payloads_s)s)
    and (
        o.answered_at is not null
        or case when o.client_sequence is null
            then coalesce(o.finished_at, o.created_at) < clock_timestamp() - make_interval(secs => %(caller_waits_s)s)
            else not exists (
                select from models m join client_sessions s on s.id = m.session_id
                where m.id = o.model_id and s.finished_at is null
                    and s.heartbeat_at > clock_timestamp() - make_interval(secs => %(client_away_s)s)
            )
        end
    )
    and (
        not {PAYLOAD_NEEDED}
        or exists (select from models m where m.id = o.model_id and m.removed_at is not null)
    )
"""
"""An operation whose payload and result nobody will read again. Once true it stays true. Takes `spent_values`."""

_SPENT = f"""
    o.blobs_dropped_at is null and (o.payload_blob is not null or o.result_blob is not null) and {PAYLOAD_SPENT}
"""

# The newest trainer of a base is what the server knows the base's losses from, dead or not.
_PAST = {
    "placements": """
        t.ended_at < clock_timestamp() - make_interval(secs => %(keep_planes_s)s) and not exists (
            select from hosted_rollouts h join runs u on u.id = h.run_id
            where h.placement_id = t.id and u.ended_at is null
        )
    """,
    "runners": """
        greatest(t.heartbeat_at, t.stopped_at) < clock_timestamp() - make_interval(secs => %(keep_planes_s)s)
        and not exists (select from placements p where p.runner_id = t.id)
    """,
    "trainers": """
        greatest(t.heartbeat_at, t.stopped_at) < clock_timestamp() - make_interval(secs => %(keep_planes_s)s)
        and not exists (select from model_leases l where l.trainer_id = t.id)
        and exists (
            select from trainers n where n.base_id = t.base_id and n.started_at > t.started_at and not n.is_loading
        )
    """,
    "samplers": "greatest(t.heartbeat_at, t.stopped_at) < clock_timestamp() - make_interval(secs => %(keep_planes_s)s)",
    "adapter_wants": "t.until < clock_timestamp() - make_interval(secs => %(grace_s)s)",
}


def thin_states(database: Database, policy: RetentionPolicy, *, dry_run: bool) -> set[UUID]:
    """Checkpoints that lose their optimizer state now."""
    values = {"last": policy.keep_last_states, "every": policy.keep_every_states}
    return _thin(database, f"{_STATE_THINNABLE} and {_HAS_STATE}", "state_removed_at", values, dry_run)


def thin_checkpoints(database: Database, policy: RetentionPolicy, *, dry_run: bool) -> set[UUID]:
    """Checkpoints that lose all of their files now."""
    if policy.keep_last_adapters is None:
        return set()
    values = {"last": policy.keep_last_adapters, "every": policy.keep_every_states}
    return _thin(database, _WHOLE_THINNABLE, "files_removed_at", values, dry_run)


def thin_unsaved(database: Database, policy: RetentionPolicy, *, dry_run: bool) -> set[UUID]:
    """Nodes without files that are given up now: no head can point at them any more, and their payloads may go."""
    values = {"keep_payloads_s": policy.keep_payloads_s}
    return _thin(database, _UNSAVED_THINNABLE, "files_removed_at", values, dry_run)


def drop_blobs(database: Database, policy: RetentionPolicy, *, dry_run: bool) -> set[UUID]:
    """Operations whose blobs are given up now."""
    values = spent_values(policy)
    with database.connection() as connection:
        if dry_run:
            return _ids(connection, f"select o.id from operations o where {_SPENT}", values)
        query = f"update operations o set blobs_dropped_at = clock_timestamp() where {_SPENT} returning o.id"
        return _ids(connection, query, values)


def spent_values(policy: RetentionPolicy) -> dict[str, Any]:
    """What PAYLOAD_SPENT takes."""
    return {
        "keep_payloads_s": policy.keep_payloads_s,
        "caller_waits_s": _CALLER_WAITS_S,
        "client_away_s": _CLIENT_AWAY_S,
    }


def forget_planes(database: Database, policy: RetentionPolicy, *, dry_run: bool) -> dict[str, set[UUID]]:
    """Rows of long-dead trainers, samplers (with what these held) and runners, of what runners ended long ago, and of
    wants that ran out.

    A process that was silent for this long and yet lives registers anew when it is restarted.
    """
    values = {"keep_planes_s": policy.keep_planes_s, "grace_s": policy.grace_s}
    found: dict[str, set[UUID]] = {}
    with database.connection() as connection:
        for table, is_past in _PAST.items():
            key = "t.checkpoint_id" if table == "adapter_wants" else "t.id"
            find = f"select {key} as id from {table} t where {is_past}"
            delete = f"delete from {table} t where {is_past} returning {key} as id"
            found[table] = _ids(connection, find if dry_run else delete, values)
    return found


def mark_removed(database: Database, model_id: UUID, checkpoint_id: UUID) -> bool:
    """Take the id of files that no row names, so that nobody can name them any more. False: somebody did.

    A trainer that was held up between its files and its row finds the id taken, and its step fails.
    """
    query = """
        insert into checkpoints (id, model_id, files_id, files_model_id, step, name, status, manifest, metrics)
        select %(id)s, m.id, %(id)s, m.id, 0, %(name)s, 'rejected', '{}', '{}' from models m where m.id = %(model_id)s
        on conflict do nothing returning id
    """
    values = {"id": checkpoint_id, "model_id": model_id, "name": f"left-over-{checkpoint_id.hex[:8]}"}
    with database.connection() as connection:
        return bool(_ids(connection, query, values))


def _thin(database: Database, condition: str, column: str, values: dict[str, Any], dry_run: bool) -> set[UUID]:
    find = f"select c.id from checkpoints c where {condition}"
    thinned: set[UUID] = set()
    with database.connection() as connection:
        for model_id in _ids(connection, _MODELS, {}):
            here = {**values, "model_id": model_id}
            found = _ids(connection, find, here)
            thinned |= found if dry_run or not found else _mark(connection, find, column, here)
    return thinned


def _mark(connection: Connection, find: str, column: str, values: dict[str, Any]) -> set[UUID]:
    """Lock, then look again: a statement judges by what was committed when it began, so whoever held one of the locks
    before is seen by the second only."""
    with connection.transaction():
        connection.execute(_LOCK_MODEL, values)
        locked = list(_ids(connection, f"{find} for update of c", values))
        found = list(_ids(connection, f"{find} and c.id = any(%(locked)s)", {**values, "locked": locked}))
        mark = f"update checkpoints set {column} = clock_timestamp() where id = any(%(found)s) returning id"
        return _ids(connection, mark, {"found": found})


def _ids(connection: Connection, query: str, values: dict[str, Any]) -> set[UUID]:
    return {row.id for row in connection.execute(query.encode(), values)}
