"""Traces as facts: one row, its effective status and reward, lists with filters that page by a cursor."""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from store.database import AsyncConnection
from store.rollouts.words import as_tsquery
from wire.cursors import make_cursor, parse_cursor

Status = Literal["running", "completed", "error", "cancelled"]

STATUS = "coalesce(t.status, case when t.timed_out_at is null then 'running' else 'error' end)"
"""SQL: the status that clients see."""
_SHOWN_STATUS = """
    coalesce(t.status, case
        when t.timed_out_at is not null then 'error'
        when exists (
            select from hosted_rollouts h join placements p on p.id = h.placement_id
            where h.team_id = t.team_id and h.trace_id = t.id and p.state = 'queued'
        ) then 'queued'
        else 'running'
    end)
"""
"""SQL: the same of one trace, but `queued` while no runner has it that is to carry it out. (In a list the planner would
count its cost for each row, and read the list by another index.)"""
REWARD = "coalesce(t.reward, t.evaluated_reward)"
"""SQL: what the exit said, or the evaluate step where no exit says."""

TRACE_COLUMNS = f"""
    t.id, t.team_id, t.job_id, t.group_id, t.parent_trace_id, t.task_slug, t.model, t.model_id,
    {STATUS} as status, {REWARD} as reward, t.error, t.stop_reason, t.evaluation_result, t.extra,
    t.created_at, t.entered_at, t.exited_at, t.last_activity_at, t.timed_out_at, t.pinned_at,
    t.num_turns, t.num_samples, t.num_prompt_tokens, t.num_output_tokens, t.checkpoint_ids, t.flags,
    t.labels,
    (select count(*) from trace_comments c where c.team_id = t.team_id and c.trace_id = t.id) as num_comments
"""
_COLUMNS_OF_ONE = TRACE_COLUMNS.replace(STATUS, _SHOWN_STATUS)


@dataclass(frozen=True, slots=True)
class TraceFacts:
    """What is known of a rollout without its tokens.

    `status`: `running` (of one alone, `queued` for a runner), or what the exit said (`completed`, `error`,
    `cancelled`), or `error` where the trace fell silent (`timed_out_at`). `reward`: of the exit, else of the evaluate
    step. Counts: see `store.tables.reports`.
    """

    id: UUID
    team_id: UUID
    job_id: UUID | None
    group_id: str | None
    parent_trace_id: str | None
    task_slug: str | None
    model: str | None
    model_id: UUID | None
    status: str
    reward: float | None
    error: str | None
    stop_reason: str | None
    evaluation_result: dict[str, Any] | None
    extra: dict[str, Any] | None
    created_at: datetime
    entered_at: datetime | None
    exited_at: datetime | None
    last_activity_at: datetime
    timed_out_at: datetime | None
    pinned_at: datetime | None
    num_turns: int
    num_samples: int
    num_prompt_tokens: int
    num_output_tokens: int
    checkpoint_ids: list[UUID]
    flags: list[str]
    labels: list[str]
    num_comments: int

    @property
    def timed_out(self) -> bool:
        """Closed for its silence, and no exit has come since."""
        return self.timed_out_at is not None and self.status == "error" and self.exited_at is None


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """Which traces; None: any. Bounds of rewards are inclusive; a trace without a reward is outside of any.

    since, until: when the trace began, the first inclusive, the last not. text: words that were said in it
    (`store.rollouts.words.as_tsquery`). checkpoint_ids: it was served by one of them.
    """

    model_id: UUID | None = None
    job_id: UUID | None = None
    group_id: str | None = None
    task_slug: str | None = None
    checkpoint_id: UUID | None = None
    min_reward: float | None = None
    max_reward: float | None = None
    status: Status | None = None
    since: datetime | None = None
    until: datetime | None = None
    has_samples: bool | None = None
    model_ids: list[UUID] | None = None
    text: str | None = None
    label: str | None = None
    has_comments: bool | None = None
    checkpoint_ids: list[UUID] | None = None


_CONDITIONS = {
    "model_id": "t.model_id = %(model_id)s",
    "model_ids": "t.model_id = any(%(model_ids)s::uuid[])",
    "job_id": "t.job_id = %(job_id)s",
    "group_id": "t.group_id = %(group_id)s",
    "task_slug": "t.task_slug = %(task_slug)s",
    "checkpoint_id": "t.checkpoint_ids @> array[%(checkpoint_id)s]::uuid[]",
    "checkpoint_ids": "t.checkpoint_ids && %(checkpoint_ids)s::uuid[]",
    "label": "t.labels <> '{}' and t.labels @> array[%(label)s]::text[]",
    "min_reward": f"{REWARD} >= %(min_reward)s",
    "max_reward": f"{REWARD} <= %(max_reward)s",
    "since": "t.created_at >= %(since)s",
    "until": "t.created_at < %(until)s",
}

# PostgreSQL thinks a checkpoint's rollouts are spread over all times, and looks for a page of them from the newest on.
# `offset 0` makes it take the checkpoint's own index.
_OF_CHECKPOINT = "(select * from traces t where t.team_id = %(team_id)s and {} offset 0) t"
_WITH_TEXT = """
    t.id in (select x.trace_id from trace_texts x where x.team_id = %(team_id)s and x.words @@ %(text)s::tsquery)
"""
_WITH_COMMENTS = "exists (select from trace_comments c where c.team_id = t.team_id and c.trace_id = t.id)"


# `STATUS` in terms of columns that have an index.
_WITH_STATUS = {
    "running": "t.status is null and t.timed_out_at is null",
    "error": "(t.status = 'error' or t.status is null and t.timed_out_at is not null)",
}


@dataclass(frozen=True, slots=True)
class TracePage:
    """Newest first. `next_cursor`: hand it in to get the page behind this one; None: this was the last."""

    traces: list[TraceFacts]
    next_cursor: str | None


def conditions(team_id: UUID, wanted: TraceFilter) -> tuple[str, dict[str, Any]]:
    """SQL over `traces t`, and its parameters, for a team's traces that a filter wants. Raises InvalidRequest for a
    text without words."""
    values = {name: value for name in _CONDITIONS if (value := getattr(wanted, name)) is not None}
    clauses = ["t.team_id = %(team_id)s", *(_CONDITIONS[name] for name in values)]
    if wanted.status is not None:
        clauses.append(_WITH_STATUS.get(wanted.status, "t.status = %(status)s"))
        values["status"] = wanted.status
    if wanted.has_samples is not None:
        clauses.append("t.has_samples" if wanted.has_samples else "not t.has_samples")
    if wanted.text is not None:
        clauses.append(_WITH_TEXT)
        values["text"] = as_tsquery(wanted.text)
    if wanted.has_comments is not None:
        clauses.append(_WITH_COMMENTS if wanted.has_comments else f"not {_WITH_COMMENTS}")
    return " and ".join(clauses), {"team_id": team_id, **values}


def rows_of(wanted: TraceFilter) -> str:
    """SQL: what to select traces `t` from."""
    by = next((name for name in ("checkpoint_id", "checkpoint_ids") if getattr(wanted, name) is not None), None)
    return _OF_CHECKPOINT.format(_CONDITIONS[by]) if by else "traces t"


async def find_trace(connection: AsyncConnection, team_id: UUID, trace_id: UUID) -> TraceFacts | None:
    """The team's trace of that id."""
    query = f"select {_COLUMNS_OF_ONE} from traces t where t.team_id = %(team_id)s and t.id = %(id)s"
    row = await (await connection.execute(query.encode(), {"team_id": team_id, "id": trace_id})).fetchone()
    return TraceFacts(*row) if row else None


async def list_traces(
    connection: AsyncConnection, team_id: UUID, wanted: TraceFilter, *, limit: int, cursor: str | None = None
) -> TracePage:
    """A page of a team's traces. Pages stay whole while traces come and go. Raises InvalidRequest for a bad cursor."""
    where, values = conditions(team_id, wanted)
    if cursor is not None:
        where += " and (t.created_at, t.id) < (%(before)s, %(before_id)s)"
        values["before"], values["before_id"] = parse_cursor(cursor, datetime, UUID)
    query = f"""
        select {TRACE_COLUMNS} from {rows_of(wanted)} where {where} order by t.created_at desc, t.id desc
        limit %(limit)s
    """
    found = await connection.execute(query.encode(), {**values, "limit": limit + 1})
    traces = [TraceFacts(*row) for row in await found.fetchall()]
    last = traces[limit - 1] if len(traces) > limit else None
    return TracePage(traces[:limit], make_cursor(last.created_at, last.id) if last else None)


async def count_traces(connection: AsyncConnection, team_id: UUID, wanted: TraceFilter) -> int:
    """How many there are. Reads every one of them: for a job, or a progress bar, not for each page of a list."""
    where, values = conditions(team_id, wanted)
    found = await connection.execute(f"select count(*) from traces t where {where}".encode(), values)
    row = await found.fetchone()
    assert row is not None
    return row[0]


async def count_tokens(connection: AsyncConnection, team_id: UUID, trace_ids: Iterable[UUID]) -> dict[UUID, int]:
    """Tokens of all samples of these traces, prompts counted whole: what reading them takes."""
    query = """
        select id, num_prompt_tokens + num_output_tokens from traces where team_id = %(team_id)s and id = any(%(ids)s)
    """
    rows = await (await connection.execute(query, {"team_id": team_id, "ids": list(set(trace_ids))})).fetchall()
    return {trace_id: int(num_tokens) for trace_id, num_tokens in rows}
