"""What stands around a rollout on its page: the ones before and behind it, its task, and what people wrote about it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from server.http.context import Context
from server.pages.rollouts.list_filter import asked_traces
from server.pages.shared.filters import Filter
from server.principals.callers import Caller
from server.rollouts.transcript import readable
from server.rollouts.visibility import models_of
from store.database import AsyncConnection
from store.rollouts import TraceFacts
from store.rollouts.comments import Comment, read_comments
from store.rollouts.neighbours import Neighbours, neighbours_in_group, neighbours_in_list

_MOST_OF_A_TASK = 20_000

# A taskset is named by its id as the client wrote it.
_TASK = """
    select h.environment, h.task, left(h.args, %(most)s) as args, null as content from hosted_rollouts h
    where h.team_id = %(team_id)s and h.trace_id = %(trace_id)s
    union all
    select null, null, null, left(k.content, %(most)s) from jobs j
    join tasksets s on s.team_id = j.team_id
        and replace(s.id::text, '-', '') = replace(lower(j.taskset_id), '-', '')
    join taskset_tasks k on k.taskset_id = s.id and k.name = %(slug)s
    where j.team_id = %(team_id)s and j.id = %(job_id)s
    limit 1
"""


@dataclass(frozen=True, slots=True)
class Task:
    """Where a rollout's task comes from, and its arguments as JSON."""

    environment: str | None
    template: str | None
    args: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`in_list`: of the list that the visitor comes from; None: from none. `task`: where it is on record."""

    in_group: Neighbours | None
    in_list: Neighbours | None
    task: Task | None
    comments: list[Comment]


async def surroundings(context: Context, caller: Caller, trace: TraceFacts, said: Filter | None) -> Surroundings:
    """said: the filter of the list; None: the visitor comes from none. Raises InvalidRequest for one that cannot be."""
    wanted = await asked_traces(context, caller, said) if said is not None else None
    async with context.database.connection() as connection:
        in_group = await neighbours_in_group(connection, trace, models_of(caller))
        in_list = await neighbours_in_list(connection, trace, wanted) if wanted is not None else None
        found = await read_comments(connection, trace.team_id, [trace.id]) if trace.num_comments else {}
        task = await task_of(connection, trace)
    return Surroundings(in_group, in_list, task, found.get(trace.id, []))


async def task_of(connection: AsyncConnection, trace: TraceFacts) -> Task | None:
    """As a runner was given it, else as the taskset of its job has it now."""
    if trace.task_slug is None and trace.job_id is None:
        return None
    asked = {"team_id": trace.team_id, "trace_id": trace.id, "job_id": trace.job_id, "slug": trace.task_slug}
    row = await (await connection.execute(_TASK, {**asked, "most": _MOST_OF_A_TASK})).fetchone()
    if row is None:
        return None
    if row.content is None:
        return Task(row.environment, row.task, _pretty(row.args))
    content = _object(row.content)
    if content is None:
        return Task(None, None, row.content)
    env, args = content.get("env"), content.get("args") or {}
    name = env.get("name") if isinstance(env, dict) else env
    return Task(_text(name), _text(content.get("scenario") or content.get("task_id")), readable(args))


def _pretty(text: str) -> str:
    value = _object(text)
    return text if value is None else readable(value)


def _object(text: str) -> dict[str, Any] | None:
    """None of what is none, or was cut."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
