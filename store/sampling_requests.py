"""Requests to sample whose answers are fetched later: written down, claimed by a server process, finished, found.

One statement each, for thousands come at once. Completions of a sampling session are committed one after another, so
that the time of the last one that a client has seen is a cursor: nothing earlier is committed later.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from store.database import AsyncConnection
from store.notify import SAMPLING_DONE
from store.planes.presence import PRESENT

CLONE = 1_000_000_000
"""Each copy of a client numbers its requests from a multiple of this on."""

# What is sampled. The base's own context bounds prompt and answer together.
_TARGET = """
    select s.id as session_id, s.model_id, m.slug,
        coalesce(b.id, m.id) as base_id, coalesce(b.slug, m.slug) as base_slug,
        (coalesce(b.info, m.info)->>'context_length')::int as context_length,
        s.checkpoint_id, c.files_id, c.name as checkpoint_name, c.step,
        coalesce(c.files_removed_at, m.removed_at) is not null as files_are_removed,
        cs.finished_at is not null as is_finished, t.max_concurrent_rollouts
    from sampling_sessions s
    join client_sessions cs on cs.id = s.session_id
    join teams t on t.id = s.team_id
    join models m on m.id = s.model_id
    left join models b on b.id = m.base_id
    left join checkpoints c on c.id = s.checkpoint_id
"""

_APPEND = f"""
    with s as ({_TARGET} where s.id = %(session_id)s and s.team_id = %(team_id)s), added as (
        insert into sampling_requests (id, sampling_session_id, client_sequence, team_id, owner, request, pictures)
        select %(id)s, s.session_id, %(sequence)s, %(team_id)s, %(owner)s, %(request)s, %(pictures)s from s
        where not s.is_finished and (%(model_ids)s::uuid[] is null or s.model_id = any(%(model_ids)s::uuid[]))
        on conflict (sampling_session_id, client_sequence) do nothing
        returning id
    )
    select s.*, (select id from added) is not null as is_added from s
"""  # noqa: S608 - put together from constants

_KNOWN = """
    select id, request from sampling_requests
    where sampling_session_id = %(session_id)s and client_sequence = %(sequence)s
"""

_READ = f"""
    select state, result, error_category, error_message,
        state = 'open' and not coalesce(owner = any({PRESENT}), false) as is_orphan
    from sampling_requests where id = %(id)s and team_id = %(team_id)s
"""  # noqa: S608 - put together from constants

_ORPHANS = f"""
    select r.id from sampling_requests r
    where (r.id = any(%(ids)s) or r.sampling_session_id = any(%(sessions)s))
        and r.state = 'open' and not coalesce(r.owner = any({PRESENT}), false)
    order by r.created_at limit %(limit)s
"""  # noqa: S608 - put together from constants

_CLAIM = f"""
    with claimed as (
        update sampling_requests set owner = %(owner)s
        where id = any(%(ids)s) and state = 'open' and not coalesce(owner = any({PRESENT}), false)
        returning id, team_id, sampling_session_id, request
    )
    select claimed.id, claimed.team_id, claimed.request, s.*
    from claimed join ({_TARGET}) s on s.session_id = claimed.sampling_session_id
"""  # noqa: S608 - put together from constants

_ABANDONED = """
    update sampling_requests r set state = 'cancelled', finished_at = clock_timestamp()
    from sampling_sessions s join client_sessions cs on cs.id = s.session_id
    where r.id = any(%(ids)s) and r.state = 'open' and s.id = r.sampling_session_id and (
        cs.finished_at is not null
        or cs.heartbeat_at < clock_timestamp() - make_interval(secs => %(silent_s)s)
    )
"""
_ENDED = "select id from sampling_requests where id = any(%(ids)s) and state <> 'open'"

_LOCK_SESSIONS = """
    select s.id from sampling_sessions s
    where s.id in (select r.sampling_session_id from sampling_requests r where r.id = any(%(ids)s))
    order by s.id for no key update
"""
_FINISH = """
    with ended as (
        select * from unnest(
            %(ids)s::uuid[], %(states)s::text[], %(results)s::bytea[], %(categories)s::text[], %(messages)s::text[]
        ) as e (id, state, result, category, message)
    ), written as (
        update sampling_requests r set state = e.state, result = e.result, error_category = e.category,
            error_message = e.message, finished_at = clock_timestamp()
        from ended e where r.id = e.id and r.state = 'open'
        returning r.id, r.sampling_session_id
    ), keys as (
        select replace(id::text, '-', '') as key from written union select sampling_session_id from written
    )
    select pg_notify(%(channel)s, key) from keys
"""

_CANCEL = """
    with cancelled as (
        update sampling_requests set state = 'cancelled', finished_at = clock_timestamp()
        where id = %(id)s and team_id = %(team_id)s and state = 'open' returning id
    ), woken as (
        select pg_notify(%(channel)s, %(key)s) from cancelled
    )
    select (select count(*) from woken) as num_woken, count(*) as num
    from sampling_requests where id = %(id)s and team_id = %(team_id)s
"""

_CURSOR = "(extract(epoch from finished_at) * 1000000)::bigint"
_COMPLETED = f"""
    select id, state, {_CURSOR} as cursor from sampling_requests
    where sampling_session_id = %(session_id)s
        and finished_at > to_timestamp(%(cursor)s::bigint / 1000000.0) - interval '1 ms'
        and {_CURSOR} > %(cursor)s::bigint and state in ('done', 'failed')
        and client_sequence >= %(first)s::bigint and client_sequence < %(first)s::bigint + %(clone)s::bigint
    order by finished_at
"""  # noqa: S608 - put together from constants

_DROP = """
    update sampling_requests set result = null, request = ''
    where id = any(%(ids)s) and sampling_session_id = %(session_id)s and team_id = %(team_id)s and state <> 'open'
"""


@dataclass(frozen=True, slots=True)
class SamplingTarget:
    """What a sampling session samples now. checkpoint_id None: the base weights."""

    session_id: str
    model_id: UUID
    slug: str
    base_id: UUID
    base_slug: str
    context_length: int | None
    checkpoint_id: UUID | None
    files_id: UUID | None
    checkpoint_name: str | None
    step: int | None
    files_are_removed: bool
    is_finished: bool
    max_concurrent_rollouts: int | None


@dataclass(frozen=True, slots=True)
class NewRequest:
    """One to be written down. `owner`: the number of the process that works on it (`store.planes.presence`). model_ids:
    the only models that its key opens; None: all. pictures: names of those in it, which are kept while it is open."""

    id: UUID
    session_id: str
    team_id: UUID
    sequence: int
    owner: int
    request: bytes
    model_ids: Collection[UUID] | None = None
    pictures: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class ClaimedRequest:
    """One whose process has died, now this one's."""

    id: UUID
    team_id: UUID
    request: bytes
    target: SamplingTarget


@dataclass(frozen=True, slots=True)
class RequestState:
    """One as it stands. result None, though it is done: it was fetched, and is not kept any longer. `is_orphan`: open,
    and the process that worked on it has died."""

    state: Literal["open", "done", "failed", "cancelled"]
    result: bytes | None
    error_category: str | None
    error_message: str | None
    is_orphan: bool


@dataclass(frozen=True, slots=True)
class Ending:
    """How one ended."""

    id: UUID
    state: Literal["done", "failed"]
    result: bytes | None = None
    error_category: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One that has ended, and where it stands among those of its session."""

    id: UUID
    state: Literal["done", "failed"]
    cursor: int


async def append(connection: AsyncConnection, new: NewRequest) -> tuple[SamplingTarget, bool] | None:
    """What the session samples, and whether the request was added: not where the session's client has finished, where
    the key does not open its model, nor where its number is taken. None: the team has no such session."""
    values = {
        "id": new.id,
        "session_id": new.session_id,
        "team_id": new.team_id,
        "sequence": new.sequence,
        "owner": new.owner,
        "request": new.request,
        "pictures": sorted(set(new.pictures)) or None,
        "model_ids": None if new.model_ids is None else list(new.model_ids),
    }
    row = await (await connection.execute(_APPEND.encode(), values)).fetchone()
    return None if row is None else (SamplingTarget(*row[:-1]), row.is_added)


async def known_request(connection: AsyncConnection, session_id: str, sequence: int) -> tuple[UUID, bytes]:
    """The request of this number."""
    values = {"session_id": session_id, "sequence": sequence}
    row = await (await connection.execute(_KNOWN, values)).fetchone()
    assert row is not None, "requests go with their session"
    return row.id, row.request


async def request_state(connection: AsyncConnection, request_id: UUID, team_id: UUID) -> RequestState | None:
    """A request of the team; None where it has none of that id."""
    values = {"id": request_id, "team_id": team_id}
    row = await (await connection.execute(_READ.encode(), values)).fetchone()
    return None if row is None else RequestState(*row)


async def orphans(
    connection: AsyncConnection, ids: Collection[UUID], session_ids: Collection[str], limit: int
) -> list[UUID]:
    """Open requests, of these or of these sessions, that nobody works on any more."""
    values = {"ids": list(ids), "sessions": list(session_ids), "limit": limit}
    return [row.id for row in await (await connection.execute(_ORPHANS.encode(), values)).fetchall()]


async def claim(connection: AsyncConnection, ids: Collection[UUID], owner: int) -> list[ClaimedRequest]:
    """Those of them that nobody works on and that are this process's from now on."""
    rows = await (await connection.execute(_CLAIM.encode(), {"ids": list(ids), "owner": owner})).fetchall()
    return [ClaimedRequest(row[0], row[1], row[2], SamplingTarget(*row[3:])) for row in rows]


async def ended_requests(connection: AsyncConnection, ids: Collection[UUID], silent_s: float) -> set[UUID]:
    """Those of these open requests on which no work is wanted any more: cancelled, ended by another process, or of a
    client that has finished, or has sent no heartbeat for `silent_s`."""
    await connection.execute(_ABANDONED, {"ids": list(ids), "silent_s": silent_s})
    return {row.id for row in await (await connection.execute(_ENDED, {"ids": list(ids)})).fetchall()}


async def finish(connection: AsyncConnection, endings: Sequence[Ending]) -> None:
    """Write down how requests ended, and wake those who wait for them. Those that ended otherwise stay so."""
    values = {
        "ids": [ending.id for ending in endings],
        "states": [ending.state for ending in endings],
        "results": [ending.result for ending in endings],
        "categories": [ending.error_category for ending in endings],
        "messages": [ending.error_message for ending in endings],
        "channel": SAMPLING_DONE,
    }
    async with connection.transaction():
        await connection.execute(_LOCK_SESSIONS, values)
        await connection.execute(_FINISH, values)


async def cancel(connection: AsyncConnection, request_id: UUID, team_id: UUID) -> bool:
    """End an open request. False: the team has none of that id."""
    values = {"id": request_id, "team_id": team_id, "key": request_id.hex, "channel": SAMPLING_DONE}
    row = await (await connection.execute(_CANCEL, values)).fetchone()
    return row is not None and row.num > 0


async def completions(connection: AsyncConnection, session_id: str, clone: int, cursor: int) -> list[Completion]:
    """Those of one client of the session that ended after `cursor`, in order."""
    values = {"session_id": session_id, "cursor": cursor, "first": clone * CLONE, "clone": CLONE}
    rows = await (await connection.execute(_COMPLETED.encode(), values)).fetchall()
    return [Completion(*row) for row in rows]


async def drop_fetched(
    connection: AsyncConnection, session_id: str, team_id: UUID, request_ids: Collection[UUID]
) -> None:
    """Their results are with the client, and not kept any longer."""
    await connection.execute(_DROP, {"ids": list(request_ids), "session_id": session_id, "team_id": team_id})
