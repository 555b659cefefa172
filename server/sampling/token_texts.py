"""What token ids say, for people: asked of a sampler of the base, since the server itself has no tokenizers."""

from __future__ import annotations

import asyncio
from uuid import UUID

import structlog

from server.sampling.sampler_client import SamplerClient
from store.database import DATABASE_AWAY, AsyncConnection, AsyncDatabase
from store.planes.registration import lives_sql
from wire.errors import HeadwayError
from wire.sampling import MAX_TOKEN_TEXTS, TokenTexts

log = structlog.get_logger(__name__)

_PATIENCE_S = 2.0
_LIVE = f"""
    select s.url from models m join samplers s on s.base_id = coalesce(m.base_id, m.id)
    where m.id = %(model_id)s and {lives_sql("s")} order by s.started_at limit 1
"""  # noqa: S608 - put together from constants


async def token_texts(
    database: AsyncDatabase, samplers: SamplerClient, model_id: UUID, token_ids: list[int]
) -> TokenTexts | None:
    """Of the model's base. None where no sampler says so soon: ids have to do then."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            async with database.connection() as connection:
                url = await _url(connection, model_id)
            return await samplers.token_texts(url, token_ids[:MAX_TOKEN_TEXTS]) if url else None
    except (TimeoutError, HeadwayError, *DATABASE_AWAY) as error:
        log.info("token_texts_unknown", reason=str(error)[:200])
        return None


async def _url(connection: AsyncConnection, model_id: UUID) -> str | None:
    row = await (await connection.execute(_LIVE.encode(), {"model_id": model_id})).fetchone()
    return row.url if row else None
