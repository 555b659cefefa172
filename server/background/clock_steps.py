"""Dates anew what PostgreSQL's clock has dated in the future, after it was set back."""

from __future__ import annotations

from store.database import AsyncDatabase
from store.planes.clock_steps import date_anew
from store.repeating import RepeatedTask, Rhythm

_EVERY_S = 5.0


def dating_anew(database: AsyncDatabase) -> RepeatedTask:
    """Looks now and then, for as long as the server runs."""

    async def look() -> None:
        async with database.connection() as connection:
            await date_anew(connection)

    return RepeatedTask(look, Rhythm(_EVERY_S, failed="not_dated_anew"))
