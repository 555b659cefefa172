"""What a chat needs to know, in one statement: which weights it asks for and who holds them; and the key that it
carries, where it is not known yet whose it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any
from uuid import UUID

from store.checkpoint_references import CheckpointReference, referred_sql
from store.database import AsyncConnection
from store.keys import KEY, NUM_FACTS, KeyFacts, key_facts
from store.planes.registration import lives_sql, takes_requests_sql
from store.planes.served import SERVED
from store.references import WANTED
from wire.adapter_names import adapter_name_sql, base_adapter_name_sql

_TAKES_REQUESTS = takes_requests_sql("s")

_FACTS = f"""
        (select t.max_concurrent_rollouts from teams t where t.id = k.team_id) as max_concurrent_rollouts,
        m.id as model_id, m.slug,
        coalesce(b.id, m.id) as base_id, coalesce(b.slug, m.slug) as base_slug,
        c.id as checkpoint_id, c.files_id, c.name as checkpoint_name, c.step,
        c.files_removed_at is not null as files_are_removed, c.is_saved,
        w.until > clock_timestamp() + make_interval(secs => %(pin_half_time_s)s) as is_wanted, m.upstream,
        jsonb_typeof(coalesce(b.info, m.info) -> 'pictures') = 'object' as reads_pictures,
        (
            select json_agg(json_build_array(s.id, s.url))
            from samplers s
            join sampler_adapters a on a.sampler_id = s.id
            where a.state = 'loaded'
                and a.adapter = case
                    when c.id is null then {base_adapter_name_sql("coalesce(b.id, m.id)")}
                    else {adapter_name_sql("c.files_id")}
                end
                and s.base_id = coalesce(b.id, m.id)
                and {_TAKES_REQUESTS}
        ) as samplers
    from k
    left join wanted on true
    left join models m on m.id = wanted.id
    left join models b on b.id = m.base_id
    left join checkpoints c on {{which}}
    left join adapter_wants w on w.checkpoint_id = c.id
"""  # noqa: S608 - put together from constants
_BY_KEY = f"""
    with k as ({KEY} where k.key_hash = %(who)s), {WANTED}
    select k.*, {_FACTS}
"""
_BY_TEAM = f"""
    with k as (select %(who)s::uuid as team_id), {WANTED}
    select {_FACTS}
"""
_WHICH = {False: f"c.id = {SERVED}", True: f"c.id = {referred_sql(lambda name: f'%({name})s')}"}
_STATEMENTS = {
    (is_keyed, is_pinned): (_BY_KEY if is_keyed else _BY_TEAM).replace("{which}", which).encode()
    for is_keyed in (True, False)
    for is_pinned, which in _WHICH.items()
}
"""By whether a key asks, and whether for a checkpoint."""

_HOLDING = f"""
    select s.id, s.url
    from samplers s
    join sampler_adapters a on a.sampler_id = s.id
    where a.adapter = %(adapter)s
        and a.state = 'loaded'
        and s.base_id = %(base_id)s
        and {_TAKES_REQUESTS}
"""  # noqa: S608 - put together from constants


_LIVE_URLS = f"select distinct url from samplers s where {lives_sql('s')}"  # noqa: S608 - put together from constants


# As store.planes.registration.has_trouble.
_TROUBLE = """
    select s.trouble from samplers s
    where s.base_id = %(base_id)s and s.trouble is not null and (
        s.stopped_at is null
        or not exists (select from samplers l where l.base_id = s.base_id and l.started_at > s.started_at)
    )
    order by s.started_at desc
    limit 1
"""


@dataclass(frozen=True, slots=True)
class Sampler:
    """A live sampler, and where it is reached."""

    id: UUID
    url: str
    seed: int = field(init=False, compare=False, repr=False)
    """64 bits that stand for its id, evenly spread."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", int.from_bytes(hashlib.blake2b(self.id.bytes, digest_size=8).digest()))


@dataclass(frozen=True, slots=True)
class ServingQuery:
    """Who asks (the hash of a key, or a team that is known), what they call the model, and which checkpoint they want
    (None: what the name stands for)."""

    who: bytes | UUID
    model_id: UUID | None
    """The reference, where it is an id; then it is nothing else."""
    reference: str | None
    checkpoint: CheckpointReference | None = None


@dataclass(frozen=True, slots=True)
class ServingInfo:
    """A key that is known (None where a team asked), and the weights that are asked for.

    From `model_id` on all is None where the team sees no such model; from `checkpoint_id` on, for the base weights or
    where the pinned node is not there. `is_wanted`: samplers shall hold it for a while longer, whatever the head is.
    `upstream`: the model is another vendor's, as `ModelRow.upstream` says. `reads_pictures`: its base does.
    """

    key: KeyFacts | None
    max_concurrent_rollouts: int | None
    model_id: UUID | None
    slug: str | None
    base_id: UUID | None
    base_slug: str | None
    checkpoint_id: UUID | None
    files_id: UUID | None
    checkpoint_name: str | None
    step: int | None
    files_are_removed: bool | None
    is_saved: bool | None
    is_wanted: bool | None
    upstream: Mapping[str, Any] | None
    reads_pictures: bool | None
    samplers: tuple[Sampler, ...]


async def find_serving(
    connection: AsyncConnection, question: ServingQuery, pin_half_time_s: float
) -> ServingInfo | None:
    """What there is behind a key or a team, a model and a checkpoint. None for an unknown key."""
    asked: dict[str, Any] = {
        "who": question.who,
        "model_id": question.model_id,
        "reference": question.reference,
        "pin_half_time_s": pin_half_time_s,
    }
    if question.checkpoint is not None:
        asked |= asdict(question.checkpoint)
    is_keyed = isinstance(question.who, bytes)
    statement = _STATEMENTS[is_keyed, question.checkpoint is not None]
    row = await (await connection.execute(statement, asked)).fetchone()
    if row is None:
        return None
    samplers = tuple(_sampler(sampler_id, url) for sampler_id, url in row.samplers or ())
    key, rest = (key_facts(row), row[NUM_FACTS:-1]) if is_keyed else (None, row[:-1])
    return ServingInfo(key, *rest, samplers=samplers)


@lru_cache(maxsize=4096)
def _sampler(sampler_id: str, url: str) -> Sampler:
    """One object for each: of hundreds, making them anew costs a chat as much as its statement."""
    return Sampler(UUID(sampler_id), url)


async def samplers_serving(connection: AsyncConnection, base_id: UUID, adapter: str) -> tuple[Sampler, ...]:
    """Live samplers of a base that have this adapter loaded."""
    values = {"base_id": base_id, "adapter": adapter}
    rows = await (await connection.execute(_HOLDING, values)).fetchall()
    return tuple(Sampler(*row) for row in rows)


async def sampler_trouble(connection: AsyncConnection, base_id: UUID) -> str | None:
    """Why a base has no live sampler, as far as one has said so."""
    row = await (await connection.execute(_TROUBLE, {"base_id": base_id})).fetchone()
    return row.trouble if row else None


async def live_urls(connection: AsyncConnection) -> set[str]:
    """Where all live samplers are reached."""
    rows = await (await connection.execute(_LIVE_URLS)).fetchall()
    return {row.url for row in rows}
