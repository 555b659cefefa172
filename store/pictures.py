"""Which pictures a team has. The bytes of each are a blob of its name, durable before its row commits.

Rows are locked in the order of their names, so that writers never wait for one another in a circle.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from store.database import AsyncDatabase
from wire.pictures import Picture

PICTURE_BLOBS = """
    select name from pictures
    union select name from trace_pictures
"""
"""SQL: the names of blobs that pictures need, for those who collect, copy and verify blobs."""

# A picture that is named in each turn is written once a minute.
_IS_OLD = "last_used_at < clock_timestamp() - interval '1 minute'"

_ADD = f"""
    insert into pictures (team_id, name, width, height, num_bytes)
    select %(team_id)s, new.name, new.width, new.height, new.num_bytes
    from unnest(%(names)s::text[], %(widths)s::int[], %(heights)s::int[], %(sizes)s::bigint[])
        as new (name, width, height, num_bytes)
    order by new.name
    on conflict (team_id, name) do update set last_used_at = clock_timestamp() where pictures.{_IS_OLD}
"""  # noqa: S608 - put together from constants

_KNOWN = f"""
    with found as (
        select name, width, height, {_IS_OLD} as is_old from pictures
        where team_id = %(team_id)s and name = any(%(names)s)
    ), old as (
        select name from pictures where team_id = %(team_id)s and name in (select name from found where is_old)
        order by name for no key update
    ), used as (
        update pictures p set last_used_at = clock_timestamp() from old
        where p.team_id = %(team_id)s and p.name = old.name
        returning p.name
    )
    select name, width, height from found where not is_old or name in (select name from used)
"""  # noqa: S608 - put together from constants

_READ = "select name, width, height from pictures where team_id = %(team_id)s and name = any(%(names)s)"


class PictureStore:
    """The rows of all teams' pictures."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database

    async def add(self, team_id: UUID, pictures: Sequence[tuple[Picture, int]]) -> None:
        """Pictures whose blobs are durable, and how many bytes these have. One that is there is as young as a new
        one."""
        distinct = {picture.name: (picture, num_bytes) for picture, num_bytes in pictures}.values()
        values = {
            "team_id": team_id,
            "names": [picture.name for picture, _ in distinct],
            "widths": [picture.width for picture, _ in distinct],
            "heights": [picture.height for picture, _ in distinct],
            "sizes": [num_bytes for _, num_bytes in distinct],
        }
        if distinct:
            async with self._database.connection() as connection:
                await connection.execute(_ADD.encode(), values)

    async def known(self, team_id: UUID, names: Collection[str]) -> Mapping[str, Picture]:
        """Those that the team has, by name: they are as young as new ones from now on."""
        return await self._found(_KNOWN, team_id, names)

    async def read(self, team_id: UUID, names: Collection[str]) -> Mapping[str, Picture]:
        """Those that the team has, by name, for people who look: they age as before."""
        return await self._found(_READ, team_id, names)

    async def _found(self, query: str, team_id: UUID, names: Collection[str]) -> dict[str, Picture]:
        if not names:
            return {}
        values: dict[str, Any] = {"team_id": team_id, "names": list(names)}
        async with self._database.connection() as connection:
            rows = await (await connection.execute(query.encode(), values)).fetchall()
        return {row.name: Picture(*row) for row in rows}
