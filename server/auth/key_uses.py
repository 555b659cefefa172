"""When keys were last used, to the minute: gathered in memory and written in the background, so that no request waits
for it and none fails when it cannot be written."""

from __future__ import annotations

from uuid import UUID

import structlog

from store.database import DATABASE_AWAY, AsyncDatabase
from store.keys import note_uses
from store.repeating import RepeatedTask, Rhythm

log = structlog.get_logger(__name__)

_WRITE_EVERY_S = 30.0


class KeyUses:
    """The keys that this process saw since it last wrote."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database
        self._seen: set[UUID] = set()
        self._writing = RepeatedTask(self.write, Rhythm(_WRITE_EVERY_S, failed="key_uses_lost"))
        self._writing.start()

    def note(self, key_id: UUID) -> None:
        """This key was used."""
        self._seen.add(key_id)

    async def write(self) -> None:
        """Write down what was gathered."""
        seen, self._seen = self._seen, set()
        if not seen:
            return
        try:
            await note_uses(self._database, seen)
        except DATABASE_AWAY as error:
            log.warning("key_uses_lost", error=str(error).partition("\n")[0])

    async def close(self) -> None:
        """Write the rest."""
        await self._writing.close()
        await self.write()
