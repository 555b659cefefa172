"""What waits for a runner, in kinds of which a runner may take all or none."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from store.database import AsyncConnection

_QUEUED = """
    with queued as (
        select team_id, kind, labels, count(*) as num from placements
        where state = 'queued' and available_at <= clock_timestamp()
        group by team_id, kind, labels
    )
    select q.team_id, q.kind, q.labels, least(q.num, case when q.kind = 'rollout' then t.max_concurrent_rollouts - (
        select count(*) from placements p
        where p.team_id = q.team_id and p.state = 'running' and p.kind = 'rollout'
    ) end) as num
    from queued q left join teams t on t.id = q.team_id
    where t.disabled_at is null
"""


class Queued(NamedTuple):
    """So many placements, of one team (None: of nobody's), of one kind, that ask for the same labels."""

    team_id: UUID | None
    kind: str
    labels: tuple[str, ...]
    num: int


async def what_is_queued(connection: AsyncConnection) -> list[Queued]:
    """What runners could take now: nothing of a team that has as many rollouts running as it may."""
    rows = await (await connection.execute(_QUEUED.encode())).fetchall()
    return [Queued(row.team_id, row.kind, tuple(row.labels), row.num) for row in rows if row.num > 0]
