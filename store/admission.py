"""The model that a training call names, with all that decides about the call, in one statement; together with the key
that it carries, where it is not known yet whose it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from store.database import AsyncConnection
from store.keys import KEY, NUM_FACTS, KeyFacts, key_facts
from store.oplog.conditions import UNANSWERED
from store.references import WANTED
from store.run_states import IS_LIVE
from store.usage import TODAY

# The losses: what the newest trainer of the base announced, alive or not.
_FACTS = f"""
        m.id as model_id, m.slug, m.upstream is not null as is_upstream, b.slug as base_slug, b.info,
        (
            select t.losses from trainers t where t.base_id = b.id and not t.is_loading
            order by t.started_at desc limit 1
        ) as losses,
        m.paused_at, m.pause_reason, m.paused_by, t.max_training_tokens_per_day, t.max_storage_bytes,
        coalesce(
            (select u.num_tokens from training_usage u where u.team_id = t.id and u.day = {TODAY}), 0
        ) as tokens_today,
        b.id as base_id,
        case
            when %(idempotency_key)s::text is null
                then exists (select from operations o where o.model_id = m.id and {UNANSWERED})
            else exists (
                select from operations o where o.model_id = m.id and o.idempotency_key = %(idempotency_key)s::text
            )
        end as may_repeat,
        coalesce(
            (select s.finished_at is not null from client_sessions s where s.id = m.session_id), false
        ) as session_is_finished,
        (select r.id from runs r where r.model_id = m.id and {IS_LIVE}) as run_id
"""  # noqa: S608 - put together from constants
_MODEL = """
    join teams t on t.id = k.team_id
    left join wanted on true
    left join models m on m.id = wanted.id
    left join models b on b.id = m.base_id
"""

_BY_KEY = f"""
    with k as ({KEY} where k.key_hash = %(key_hash)s), {WANTED}
    select k.*, {_FACTS} from k {_MODEL}
"""  # noqa: S608 - put together from constants
_BY_TEAM = f"""
    with k as (select %(team_id)s::uuid as team_id), {WANTED}
    select {_FACTS} from k {_MODEL}
"""  # noqa: S608 - put together from constants


_RUN = f"""
    with k as (select %(team_id)s::uuid as team_id), wanted as (
        select m.id from models m, k
        where m.session_id = %(session_id)s and m.session_index = %(index)s and m.team_id = k.team_id
            and m.removed_at is null
    )
    select {_FACTS} from k {_MODEL}
"""  # noqa: S608 - put together from constants


@dataclass(frozen=True, slots=True)
class Admission:
    """A model as a team sees it.

    `model_id` and `slug` are None where there is no such model, `base_slug` where it is a base itself or another
    vendor's (`is_upstream`), `info` and `losses` before a trainer has loaded the base. `tokens_today`: what the team
    has sent to be trained since midnight, UTC. `may_repeat`: an operation is in the log under the call's
    Idempotency-Key or, for a call without one, an operation whose answer nobody has. `session_is_finished`: of its
    client session. `run_id`: the run that trains it now.
    """

    model_id: UUID | None
    slug: str | None
    is_upstream: bool | None
    base_slug: str | None
    info: Mapping[str, Any] | None
    losses: Mapping[str, Mapping[str, float | None]] | None
    paused_at: datetime | None
    pause_reason: str | None
    paused_by: str | None
    max_training_tokens_per_day: int | None
    max_storage_bytes: int | None
    tokens_today: int
    base_id: UUID | None
    may_repeat: bool
    session_is_finished: bool
    run_id: UUID | None = None


async def find_keyed_admission(
    connection: AsyncConnection,
    key_hash: bytes,
    model_id: UUID | None,
    reference: str | None,
    idempotency_key: str | None = None,
) -> tuple[KeyFacts, Admission] | None:
    """What there is behind a key and a model's id or, where that is None, a reference. None for an unknown key."""
    row = await _found(connection, _BY_KEY, model_id, reference, idempotency_key, key_hash=key_hash)
    return (key_facts(row), Admission(*row[NUM_FACTS:])) if row else None


async def find_admission(
    connection: AsyncConnection,
    team_id: UUID,
    model_id: UUID | None,
    reference: str | None,
    idempotency_key: str | None = None,
) -> Admission | None:
    """What a team means by a model's id or, where that is None, a reference. None where there is no such team."""
    row = await _found(connection, _BY_TEAM, model_id, reference, idempotency_key, team_id=team_id)
    return Admission(*row) if row else None


async def find_run_admission(
    connection: AsyncConnection, team_id: UUID, session_id: str, index: int
) -> Admission | None:
    """A team's run of that number in a client session. None where there is no such team."""
    values = {"team_id": team_id, "session_id": session_id, "index": index, "idempotency_key": None}
    row = await (await connection.execute(_RUN.encode(), values)).fetchone()
    return Admission(*row) if row else None


async def _found(
    connection: AsyncConnection,
    statement: str,
    model_id: UUID | None,
    reference: str | None,
    idempotency_key: str | None,
    **whose: Any,
) -> Any:
    named = {"model_id": model_id, "reference": reference, "idempotency_key": idempotency_key}
    return await (await connection.execute(statement.encode(), {**named, **whose})).fetchone()
