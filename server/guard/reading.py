"""Reads histories from the database. Each step is looked at, so these statements go to the driver itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, Protocol
from uuid import UUID

from psycopg.rows import namedtuple_row

from server.guard.history import History, Score, Step
from store.database import AsyncConnection

LONGEST = 500
"""So many steps back; rules that compare with the beginning then compare with that."""
_COMPONENT_STEPS = 40
BASE = "base"
"""What the base weights are called where others have a checkpoint's name."""

_STEP = "select id, parent_id, name, step, mean_reward, num_traces, metrics from checkpoints where id = %(id)s"
_PATH = """
    with recursive path as (
        select id, parent_id, name, step, mean_reward, num_traces, metrics, 1 as depth
        from checkpoints where id = %(id)s
        union all
        select c.id, c.parent_id, c.name, c.step, c.mean_reward, c.num_traces, c.metrics, p.depth + 1
        from checkpoints c join path p on c.id = p.parent_id
        where p.depth < %(longest)s
    )
    select * from path order by depth desc
"""
_SCORES = """
    select id, benchmark, checkpoint_id, score, stderr, n, higher_is_better from evals
    where model_id = %(model_id)s
        and (checkpoint_id = any(%(ids)s::uuid[]) or (checkpoint_id is null and %(begins_at_base)s))
    order by created_at desc, id limit 1000
"""
_COMPONENTS = """
    select c.step, part ->> 'name' as name, avg((part ->> 'value')::numeric)::float8 as mean
    from traces t
    cross join unnest(t.checkpoint_ids) as served
    join checkpoints c on c.id = served
    cross join jsonb_array_elements(
        case when jsonb_typeof(t.evaluation_result -> 'subscores') = 'array'
            then t.evaluation_result -> 'subscores' else '[]'::jsonb end
    ) as part
    left join jobs j on j.team_id = t.team_id and j.id = t.job_id
    where t.team_id = %(team_id)s and t.model_id = %(model_id)s
        and t.checkpoint_ids && %(ids)s::uuid[] and served = any(%(ids)s::uuid[])
        and j.is_evaluation is not true
        and jsonb_typeof(part -> 'name') = 'string' and length(part ->> 'name') <= 100
        and case when jsonb_typeof(part -> 'value') = 'number'
            then (part ->> 'value')::numeric between 0 and 1 else false end
    group by 1, 2 order by 1, 2 limit 2000
"""


class ModelFacts(Protocol):
    """What is needed of a model: of its row in the ORM, or of a row with these columns."""

    @property
    def id(self) -> UUID: ...
    @property
    def slug(self) -> str: ...
    @property
    def team_id(self) -> UUID | None: ...


@dataclass(frozen=True, slots=True)
class Path:
    """The checkpoint and its ancestors, root first; no steps: the base weights. `begins_at_base`: these are on it."""

    steps: Sequence[Step] = ()
    begins_at_base: bool = True

    def ids(self, most: int | None = None) -> str:
        """Of its steps, or so many of the last: an array as PostgreSQL reads it, which is one short text to send."""
        steps = self.steps if most is None else self.steps[-most:]
        return "{" + ",".join([step.id.hex for step in steps]) + "}"


async def path_to(connection: AsyncConnection, checkpoint_id: UUID | None) -> tuple[Path, bool]:
    """The path, and whether its first step is the root of the tree: of a longer one, the last `LONGEST` steps."""
    if checkpoint_id is None:
        return Path(), True
    rows = await rows_of(connection, _PATH, {"id": checkpoint_id, "longest": LONGEST})
    is_whole = rows[0].parent_id is None
    # A root of step 0 starts from another model's weights; base weights are not on such a path.
    return Path([_step(row) for row in rows], begins_at_base=is_whole and rows[0].step > 0), is_whole


async def read_step(connection: AsyncConnection, checkpoint_id: UUID) -> tuple[Step, UUID | None]:
    """What rules see of a checkpoint, and its parent's id."""
    (row,) = await rows_of(connection, _STEP, {"id": checkpoint_id})
    return _step(row), row.parent_id


async def read_history(
    connection: AsyncConnection, model: ModelFacts, path: Path, failure: str | None = None
) -> History:
    """What happened on the way to the last checkpoint of a path."""
    return History(
        model=model.slug,
        steps=path.steps,
        scores=await scores_on(connection, model.id, path),
        components=await _components(connection, model, path),
        failure=failure,
    )


async def scores_on(connection: AsyncConnection, model_id: UUID, path: Path) -> list[Score]:
    """The held-out scores of the path's checkpoints and of the base weights, in the order of the path."""
    asked = {"model_id": model_id, "ids": path.ids(), "begins_at_base": path.begins_at_base}
    rows = await rows_of(connection, _SCORES, asked)
    if not rows:
        return []
    known = {step.id: step for step in path.steps}
    scores = [_score(row, known.get(row.checkpoint_id)) for row in reversed(rows)]
    return sorted(scores, key=lambda score: score.step)


async def rows_of(connection: AsyncConnection, statement: LiteralString, asked: Mapping[str, Any]) -> list[Any]:
    """All rows, as named tuples."""
    async with connection.cursor(row_factory=namedtuple_row) as cursor:
        return await (await cursor.execute(statement, asked)).fetchall()


async def _components(connection: AsyncConnection, model: ModelFacts, path: Path) -> dict[str, list[tuple[int, float]]]:
    found = dict[str, list[tuple[int, float]]]()
    if path.steps:
        asked = {"team_id": model.team_id, "model_id": model.id, "ids": path.ids(_COMPONENT_STEPS)}
        for row in await rows_of(connection, _COMPONENTS, asked):
            found.setdefault(row.name, []).append((row.step, row.mean))
    return found


def _step(row: Any) -> Step:
    std = row.metrics.get("reward_std")
    return Step(
        id=row.id,
        name=row.name,
        step=row.step,
        reward=row.mean_reward,
        reward_std=float(std) if isinstance(std, (int, float)) else None,
        num_traces=row.num_traces,
        metrics=row.metrics,
    )


def _score(row: Any, checkpoint: Step | None) -> Score:
    return Score(
        id=row.id,
        benchmark=row.benchmark,
        checkpoint_id=row.checkpoint_id,
        checkpoint_name=checkpoint.name if checkpoint else BASE,
        step=checkpoint.step if checkpoint else 0,
        score=row.score,
        stderr=row.stderr,
        n=row.n,
        higher_is_better=row.higher_is_better,
    )
