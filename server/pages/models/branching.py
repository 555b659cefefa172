"""Where the line of a model's newest steps, in commit order, goes on from elsewhere: after a roll-back, say.

Between two such turns each step goes on from its predecessor, so a few rows say which of thousands of steps lead to the
head; and of the history before these steps nothing is read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from psycopg.rows import class_row
from sqlalchemy.ext.asyncio import AsyncSession

from store.database import driver_of

# One step more than asked for: whether the first one goes on from its predecessor is known then.
_TURNS: LiteralString = """
    with newest as (
        select id, parent_id, committed_at, step from checkpoints
        where model_id = %(model_id)s and status = 'committed' and step > 0
        order by committed_at desc, step desc, id desc limit %(most)s + 1
    ), placed as (
        select id, parent_id, lag(id) over line as before,
            %(total)s - (select count(*) from newest) + row_number() over line - 1 as place
        from newest window line as (order by committed_at, step, id)
    )
    select p.place, p.before is null as is_first, p.id = %(head_id)s as is_head,
        p.before is null or p.parent_id is distinct from p.before as turns,
        above.place as parent_place, parent.name as parent
    from placed p
    left join placed above on above.id = p.parent_id
    left join checkpoints parent on parent.id = p.parent_id
    where p.before is null or p.parent_id is distinct from p.before or p.id = %(head_id)s
    order by p.place
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """A step, by its place among all steps, from 0. `turns`: it does not go on from its predecessor, or that is not
    known, for it is the first one (`is_first`). `parent_place`: None where the step that it goes on from is not among
    the newest."""

    place: int
    is_first: bool
    is_head: bool | None
    turns: bool
    parent_place: int | None
    parent: str | None


async def read_branching(
    session: AsyncSession, model_id: UUID, head_id: UUID | None, total: int, most: int
) -> Branching:
    """Of the newest `most` of all `total` steps."""
    asked = {"model_id": model_id, "head_id": head_id, "total": total, "most": most}
    connection = await driver_of(session)
    async with connection.cursor(row_factory=class_row(Turn)) as cursor:
        return Branching(await (await cursor.execute(_TURNS, asked)).fetchall(), total, max(0, total - most))


@dataclass(frozen=True, slots=True)
class Branching:
    """`rows`: the steps that turn, and the head. `begin`: the place of the first step that is asked about."""

    rows: Sequence[Turn]
    total: int
    begin: int

    def left_behind(self) -> list[tuple[int, int]]:
        """Ranges of places (first, last) that do not lead to the head: rolled back, or beside it."""
        found, free_from = list[tuple[int, int]](), self.begin
        for first, last in [*self._to_head(), (self.total, self.total)]:
            if free_from < first:
                found.append((free_from, first - 1))
            free_from = max(free_from, last + 1)
        return found

    def rollbacks(self) -> list[tuple[int, str]]:
        """(place of the step that went on from elsewhere than its predecessor, where from)."""
        turned = [row for row in self.rows if row.turns and not row.is_first and row.place >= self.begin]
        return [(row.place, row.parent or "the base weights") for row in turned]

    def _to_head(self) -> list[tuple[int, int]]:
        """Ranges that lead to the head, the oldest first."""
        turns = [row for row in self.rows if row.turns]
        starts = [row.place for row in turns]
        found, place = list[tuple[int, int]](), next((row.place for row in self.rows if row.is_head), None)
        while place is not None:
            turn = turns[bisect_right(starts, place) - 1]
            found.append((turn.place, place))
            place = turn.parent_place
        return found[::-1]
