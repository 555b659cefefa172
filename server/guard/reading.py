"""Reads histories from the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Text, Uuid, any_, cast, literal, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from server.guard.history import History, Score, Step
from store.tables import CheckpointRow, EvalRow, ModelRow

LONGEST = 500
"""So many steps back; rules that compare with the beginning then compare with that."""
_NUM_SCORES = 1000
_COMPONENT_STEPS = 40
BASE = "base"
"""What the base weights are called where others have a checkpoint's name."""

_PATH = text("""
    with recursive path as (
        select id, parent_id, 1 as depth from checkpoints where id = :id
        union all
        select c.id, c.parent_id, p.depth + 1 from checkpoints c join path p on c.id = p.parent_id
        where p.depth < :longest
    )
    select id from path
""")

_COMPONENTS = text("""
    select c.step, part ->> 'name', avg((part ->> 'value')::numeric)::float8
    from traces t
    cross join unnest(t.checkpoint_ids) as served
    join checkpoints c on c.id = served
    cross join jsonb_array_elements(
        case when jsonb_typeof(t.evaluation_result -> 'subscores') = 'array'
            then t.evaluation_result -> 'subscores' else '[]'::jsonb end
    ) as part
    left join jobs j on j.team_id = t.team_id and j.id = t.job_id
    where t.team_id = :team_id and t.model_id = :model_id and t.checkpoint_ids && :ids and served = any(:ids)
        and j.is_evaluation is not true
        and jsonb_typeof(part -> 'name') = 'string' and length(part ->> 'name') <= 100
        and case when jsonb_typeof(part -> 'value') = 'number'
            then (part ->> 'value')::numeric between 0 and 1 else false end
    group by 1, 2 order by 1, 2 limit 2000
""")

_STEP_COLUMNS = (
    CheckpointRow.id,
    CheckpointRow.parent_id,
    CheckpointRow.name,
    CheckpointRow.step,
    CheckpointRow.mean_reward,
    CheckpointRow.num_traces,
    CheckpointRow.metrics,
)
_SCORE_COLUMNS = (
    EvalRow.id,
    EvalRow.benchmark,
    EvalRow.checkpoint_id,
    EvalRow.score,
    EvalRow.stderr,
    EvalRow.n,
    EvalRow.higher_is_better,
)


@dataclass(frozen=True, slots=True)
class Path:
    """The checkpoint and its ancestors, root first; no steps: the base weights. `begins_at_base`: these are on it."""

    steps: Sequence[Step] = ()
    begins_at_base: bool = True


async def path_to(session: AsyncSession, checkpoint_id: UUID | None) -> tuple[Path, bool]:
    """The path, and whether its first step is the root of the tree: of a longer one, the last `LONGEST` steps."""
    if checkpoint_id is None:
        return Path(), True
    ids = (await session.scalars(_PATH, {"id": checkpoint_id, "longest": LONGEST})).all()
    of_path = select(*_STEP_COLUMNS).where(CheckpointRow.id.in_(ids)).order_by(CheckpointRow.step)
    rows = (await session.execute(of_path)).all()
    is_whole = rows[0].parent_id is None
    # A root of step 0 starts from another model's weights; base weights are not on such a path.
    return Path([step_of(row) for row in rows], begins_at_base=is_whole and rows[0].step > 0), is_whole


async def read_history(session: AsyncSession, model: ModelRow, path: Path, failure: str | None = None) -> History:
    """What happened on the way to the last checkpoint of a path."""
    return History(
        model=model.slug,
        steps=path.steps,
        scores=await scores_on(session, model.id, path),
        components=await _components(session, model, path),
        failure=failure,
    )


async def scores_on(session: AsyncSession, model_id: UUID, path: Path) -> list[Score]:
    """The held-out scores of the path's checkpoints and of the base weights, in the order of the path."""
    on_path = EvalRow.checkpoint_id == any_(ids_of(path.steps))
    if path.begins_at_base:
        on_path = or_(on_path, EvalRow.checkpoint_id.is_(None))
    query = select(*_SCORE_COLUMNS).where(EvalRow.model_id == model_id, on_path)
    rows = (await session.execute(query.order_by(EvalRow.created_at.desc(), EvalRow.id).limit(_NUM_SCORES))).all()
    if not rows:
        return []
    known = {step.id: step for step in path.steps}
    scores = [_score(row, known.get(row.checkpoint_id)) for row in reversed(rows)]
    return sorted(scores, key=lambda score: score.step)


def ids_of(steps: Sequence[Step]) -> ColumnElement[Any]:
    """SQL: their ids as one parameter."""
    return cast(literal("{" + ",".join([step.id.hex for step in steps]) + "}", Text), ARRAY(Uuid))


async def _components(session: AsyncSession, model: ModelRow, path: Path) -> dict[str, list[tuple[int, float]]]:
    ids = [step.id for step in path.steps[-_COMPONENT_STEPS:]]
    found = dict[str, list[tuple[int, float]]]()
    if ids:
        asked = {"team_id": model.team_id, "model_id": model.id, "ids": ids}
        for step, name, mean in await session.execute(_COMPONENTS, asked):
            found.setdefault(name, []).append((step, mean))
    return found


def step_of(row: CheckpointRow | Any) -> Step:
    """What rules see of a checkpoint, or of a row with its columns."""
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
