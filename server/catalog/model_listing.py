"""The catalog in full, bases first, then forks by age. Clients may ask for all of it at once, and thousands of models
would be as many objects of the ORM twice over: it is read by the driver, and what is not looked at here PostgreSQL
writes as JSON."""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.rows import class_row, tuple_row

from server.catalog.lora import shape_on
from store.database import AsyncConnection
from store.listed_models import LISTED
from wire.lora import LoraConfig

_VISIBLE = f"""
    (m.team_id is null or m.team_id = %(team_id)s) and {LISTED}
        and (%(only)s::uuid[] is null or m.id = any(%(only)s::uuid[]))
        and (%(forks_only)s is not true or m.base_id is not null)
"""
# Ids are put in order before whole rows are read.
_PAGE = f"""
    with page as (
        select m.id, row_number() over (order by m.base_id is not null, m.created_at, m.id) as place
        from models m where {_VISIBLE} order by place limit %(limit)s offset %(offset)s
    ), listed as (
        select p.place, m.*, base.slug as base_slug, coalesce(base.info, m.info) as known
        from page p join models m on m.id = p.id left join models base on base.id = m.base_id
    )
"""
# As `input_modalities` of `server.catalog.service` says.
_MODALITIES = """
    case when known is null or upstream is not null then null
        when jsonb_typeof(known -> 'pictures') = 'object' then array['text', 'image'] else array['text'] end
"""
_TIME = '\'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\''

# The fields of `CatalogModel`, as `server.catalog.service.catalog_model` sets them, but for `lora`.
_CATALOG = f"""
    {_PAGE}
    select row_to_json(item)::text, lora::text, base_id from listed, lateral (
        select
            id, name, slug as model_name,
            case upstream ->> 'api' when 'anthropic' then 'claude' when 'gemini' then 'gemini'
                else 'openai_compatible' end as sdk_agent_type,
            upstream is null as is_trainable,
            json_build_object('name', coalesce(upstream ->> 'api', 'headway')) as provider,
            to_char(created_at at time zone 'utc', {_TIME}) as created_at,
            base_slug as base_model, head_checkpoint_id, known -> 'sharing' as sharing,
            to_char(paused_at at time zone 'utc', {_TIME}) as paused_at, pause_reason,
            case when upstream is not null then
                json_build_object('api', upstream -> 'api', 'model', upstream -> 'model') end as upstream,
            description, tags, {_MODALITIES} as input_modalities
    ) item order by place
"""
_BASES = "select id, info from models where weights is not null"
_TOTAL = f"select count(*) from models m where {_VISIBLE}"
_MODELS = f"""
    {_PAGE}
    select id, slug, name, team_id, created_at, base_slug, upstream ->> 'api' as api,
        (known ->> 'context_length')::int as context_length, {_MODALITIES} as input_modalities
    from listed order by place
"""


class VisibleModel(NamedTuple):
    """A model that a team sees. `base_slug`: of a fork; `api`: of another vendor's model; `context_length`: tokens.
    That one and `input_modalities` are None until a worker has loaded the base."""

    id: UUID
    slug: str
    name: str
    team_id: UUID | None
    created_at: datetime
    base_slug: str | None
    api: str | None
    context_length: int | None
    input_modalities: list[str] | None


async def catalog_page(
    connection: AsyncConnection, team_id: UUID, only: Collection[UUID] | None, limit: int | None, offset: int
) -> str:
    """A `CatalogPage` as JSON; without a limit, everything. `only`: of these models (None: of all)."""
    asked = _asked(team_id, only, limit, offset)
    async with connection.cursor(row_factory=tuple_row) as cursor:
        (total,) = await (await cursor.execute(_TOTAL.encode(), asked)).fetchone() or (0,)
        bases = dict(await (await cursor.execute(_BASES)).fetchall())
        rows = await (await cursor.execute(_CATALOG.encode(), asked)).fetchall()
    shapes = {one: _shape(bases, *one) for one in {row[1:] for row in rows}}
    items = [f'{item[:-1]},"lora":{shapes[adapter, base_id]}}}' for item, adapter, base_id in rows]
    return f'{{"items":[{",".join(items)}],"total":{total}}}'


def _shape(bases: Mapping[UUID, dict[str, Any] | None], adapter: str | None, base_id: UUID | None) -> str:
    """An adapter as JSON. Thousands of models have a few of them."""
    if base_id is None:
        return "null"
    return shape_on(bases.get(base_id), LoraConfig(**json.loads(adapter or "{}"))).model_dump_json()


async def visible_models(
    connection: AsyncConnection,
    team_id: UUID,
    only: Collection[UUID] | None,
    limit: int | None = None,
    *,
    forks_only: bool = False,
) -> list[VisibleModel]:
    """The first so many; without a limit, all. `only`: of these models (None: of all)."""
    asked = _asked(team_id, only, limit, 0) | {"forks_only": forks_only}
    async with connection.cursor(row_factory=class_row(VisibleModel)) as cursor:
        return await (await cursor.execute(_MODELS.encode(), asked)).fetchall()


def _asked(team_id: UUID, only: Collection[UUID] | None, limit: int | None, offset: int) -> dict[str, Any]:
    ids = None if only is None else list(only)
    return {"team_id": team_id, "only": ids, "limit": limit, "offset": offset, "forks_only": False}
