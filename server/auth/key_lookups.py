"""Keys are looked up on every request; requests that come with the same key within 10 ms share an answer, which a
revocation waits out before it is acknowledged (`server.process.shared_lookups`)."""

from __future__ import annotations

from server.auth.service import key_hash
from server.principals.callers import Caller, admitted
from server.process.shared_lookups import SharedLookups
from store.cache_acknowledgements import CacheAcknowledgements
from store.database import AsyncDatabase
from store.keys import KeyFacts, find_key_alone


class KeyLookups:
    """Over two pools: an urgent one does not wait for the requests that fill the other."""

    def __init__(
        self, database: AsyncDatabase, background: AsyncDatabase, acknowledgements: CacheAcknowledgements
    ) -> None:
        self._ordinary, self._urgent = (_lookups(pool, acknowledgements) for pool in (database, background))

    async def caller(self, key: str, *, urgent: bool = False) -> Caller:
        """Who is behind a key. Raises Unauthenticated, or Forbidden where the team is disabled."""
        lookups = self._urgent if urgent else self._ordinary
        return admitted(await lookups.ask(key_hash(key)))


def _lookups(database: AsyncDatabase, acknowledgements: CacheAcknowledgements) -> SharedLookups[bytes, KeyFacts | None]:
    async def fetch(hashed: bytes) -> KeyFacts | None:
        async with database.connection() as connection:
            return await find_key_alone(connection, hashed)

    return SharedLookups(fetch, acknowledgements=acknowledgements)
