"""What waits for a runner, in kinds of which a runner may take all or none."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from store.database import AsyncConnection

_QUEUED = """
    select team_id, kind, labels, count(*) as num from placements
    where state = 'queued' and available_at <= clock_timestamp()
    group by team_id, kind, labels
"""


class Queued(NamedTuple):
    """So many placements, of one team (None: of nobody's), of one kind, that ask for the same labels."""

    team_id: UUID | None
    kind: str
    labels: tuple[str, ...]
    num: int


async def what_is_queued(connection: AsyncConnection) -> list[Queued]:
    """What a runner could take now, whatever limits its team has."""
    rows = await (await connection.execute(_QUEUED.encode())).fetchall()
    return [Queued(row.team_id, row.kind, tuple(row.labels), row.num) for row in rows]
