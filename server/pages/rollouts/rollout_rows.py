"""A page of rollouts as a table, with the names of the checkpoints that served them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from server.http.context import Context
from server.pages.rollouts.list_filter import asked_traces
from server.pages.shared.filters import Filter
from server.principals.callers import Caller
from store.database import AsyncConnection
from store.rollouts import TraceFacts, list_traces
from store.rollouts.unread import read_texts
from store.rollouts.words import excerpt

PAGE = 50

_NAMES = """
    select c.id, c.name, c.model_id, m.slug from checkpoints c join models m on m.id = c.model_id
    where c.id = any(%(ids)s) and m.team_id = %(team_id)s
"""


@dataclass(frozen=True, slots=True)
class CheckpointName:
    """A checkpoint that served a sample, and its page."""

    name: str
    model_id: UUID
    model: str

    @property
    def link(self) -> str:
        """Where it stands in the tree."""
        return f"/models/{self.model_id}?tab=checkpoints&node={self.name}"


@dataclass(frozen=True, slots=True)
class RolloutRows:
    """`checkpoints`: of the first that served each, by id; one that is gone has no name.

    `older`: the cursor of the next page. `hits`: of a search, what stands before the hit in each, the hit, and what
    stands behind it.
    """

    traces: list[TraceFacts]
    checkpoints: dict[UUID, CheckpointName]
    older: str | None
    hits: dict[UUID, tuple[str, str, str]]


async def rollout_rows(
    context: Context, caller: Caller, said: Filter, cursor: str | None, job_id: UUID | None = None
) -> RolloutRows:
    """The page behind the cursor, newest first, of what the key sees. Raises InvalidRequest."""
    team_id, wanted = caller.team_id, await asked_traces(context, caller, said, job_id)
    async with context.database.connection() as connection:
        found = await list_traces(connection, team_id, wanted, limit=PAGE, cursor=cursor)
        names = await checkpoint_names(
            connection, team_id, {one for trace in found.traces for one in trace.checkpoint_ids}
        )
        ids = [trace.id for trace in found.traces]
        texts = await read_texts(connection, team_id, ids) if wanted.text else {}
    hits = {trace_id: excerpt(text, wanted.text or "") for trace_id, text in texts.items()}
    return RolloutRows(found.traces, names, found.next_cursor, hits)


async def checkpoint_names(
    connection: AsyncConnection, team_id: UUID, checkpoint_ids: set[UUID]
) -> dict[UUID, CheckpointName]:
    """Names of the team's checkpoints, by id."""
    rows = await (await connection.execute(_NAMES, {"team_id": team_id, "ids": list(checkpoint_ids)})).fetchall()
    return {row.id: CheckpointName(row.name, row.model_id, row.slug) for row in rows}
