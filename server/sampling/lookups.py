"""What requests for samples look up; those that ask at about the same time share an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from server.metrics.instruments import ServerMetrics
from server.process.shared_lookups import SharedLookups
from store.cache_acknowledgements import CacheAcknowledgements
from store.database import AsyncDatabase
from store.planes.adapters import want_checkpoint
from store.planes.promotion import Votes, promotion_votes_async
from store.planes.promotion_policy import PromotionPolicy
from store.planes.serving import (
    Sampler,
    ServingInfo,
    ServingQuery,
    find_serving,
    live_urls,
    sampler_trouble,
    samplers_serving,
)

PIN_S = 600.0
"""How long samplers hold a checkpoint after a request that named it."""
_WANTED_AGAIN_S = 5.0
_ANSWERS_WITHIN_S = 1.0
_DATABASE_ASKED_AGAIN_S = 0.5


def serving_lookups(
    database: AsyncDatabase, metrics: ServerMetrics, acknowledgements: CacheAcknowledgements
) -> SharedLookups[ServingQuery, ServingInfo | None]:
    """Whose key, which weights, who holds them."""

    async def fetch(question: ServingQuery) -> ServingInfo | None:
        async with database.connection() as connection:
            return await find_serving(connection, question, PIN_S / 2)

    return SharedLookups(fetch, metrics, acknowledgements=acknowledgements)


@dataclass(frozen=True, slots=True)
class Holders:
    """The live samplers that hold an adapter; and, where there are none, what the others say about it. `trouble`: why
    none lives, if that is known."""

    samplers: tuple[Sampler, ...]
    votes: Votes
    trouble: str | None = None


def holder_lookups(
    database: AsyncDatabase, acknowledgements: CacheAcknowledgements
) -> SharedLookups[tuple[UUID, str], Holders]:
    """Who of a base's samplers holds an adapter."""

    async def fetch(question: tuple[UUID, str]) -> Holders:
        base_id, adapter = question
        async with database.connection() as connection:
            if samplers := await samplers_serving(connection, base_id, adapter):
                return Holders(samplers, Votes(len(samplers), len(samplers)))
            votes = await promotion_votes_async(connection, PromotionPolicy.ONE, base_id, adapter)
            return Holders((), votes, None if votes.live else await sampler_trouble(connection, base_id))

    return SharedLookups(fetch, acknowledgements=acknowledgements)


def checkpoint_wants(database: AsyncDatabase) -> SharedLookups[UUID, None]:
    """Have samplers load a checkpoint and hold it for a while; those who ask at about the same time ask once."""

    async def fetch(checkpoint_id: UUID) -> None:
        async with database.session() as session:
            await want_checkpoint(session, checkpoint_id, PIN_S)

    return SharedLookups(fetch, good_for_s=_WANTED_AGAIN_S)


def answering_samplers(is_answering: Callable[[str], Awaitable[bool]]) -> SharedLookups[str, bool]:
    """Whether the sampler at a URL says that it can generate, within a second; asked once a second at most."""

    async def fetch(url: str) -> bool:
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                return await is_answering(url)
        except TimeoutError:
            return False

    return SharedLookups(fetch, good_for_s=_ANSWERS_WITHIN_S)


def database_answering(database: AsyncDatabase) -> SharedLookups[str, None]:
    """Has the database answer a statement; it is asked twice a second at most, and once at a time however many wait for
    an answer that does not come."""

    async def fetch(statement: str) -> None:
        async with database.connection() as connection:
            await connection.execute(statement.encode())

    return SharedLookups(fetch, good_for_s=_DATABASE_ASKED_AGAIN_S)


def live_sampler_urls(database: AsyncDatabase) -> Callable[[], Awaitable[set[str]]]:
    """Where the samplers are whose heartbeat has not run out, whatever they hold."""

    async def fetch() -> set[str]:
        async with database.connection() as connection:
            return await live_urls(connection)

    return fetch
