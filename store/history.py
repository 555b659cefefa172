"""What was trained, in the order in which it was committed: rollbacks go back in the tree, never in this order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from store.listed_models import is_listed
from store.tables import CheckpointRow, ModelRow, TeamRow
from wire.errors import NotFound


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A fork, and how many of its own steps were committed so far."""

    id: UUID
    slug: str
    team: str
    base: str
    num_steps: int


@dataclass(frozen=True, slots=True)
class CommittedStep:
    """One of them. `order` counts the model's steps from 1 on; `tree_step` is the node's depth in the tree."""

    order: int
    checkpoint: str
    parent: str | None
    tree_step: int
    committed_at: datetime
    learning_rate: float | None
    num_traces: int | None
    num_tokens: int | None
    metrics: dict[str, Any]


# The root of a fork is another model's step, and a start that was saved is none.
_OWN = (CheckpointRow.status == "committed", CheckpointRow.files_id == CheckpointRow.id, CheckpointRow.step > 0)


def trained_models(session: Session, names: Sequence[str] = ()) -> list[TrainedModel]:
    """All forks, or those of these names (SLUG or TEAM/SLUG). Raises NotFound for a name without a model."""
    base = aliased(ModelRow)
    counts = (
        select(CheckpointRow.model_id, func.count().label("steps")).where(*_OWN).group_by(CheckpointRow.model_id)
    ).subquery()
    query = (
        select(ModelRow.id, ModelRow.slug, TeamRow.name, base.slug, func.coalesce(counts.c.steps, 0))
        .join(TeamRow, TeamRow.id == ModelRow.team_id)
        .join(base, base.id == ModelRow.base_id)
        .outerjoin(counts, counts.c.model_id == ModelRow.id)
        .where(is_listed())
        .order_by(ModelRow.created_at, ModelRow.id)
    )
    models = [TrainedModel(*row) for row in session.execute(query)]
    known = {name.lower() for model in models for name in (model.slug, f"{model.team}/{model.slug}")}
    if missing := [name for name in names if name.lower() not in known]:
        raise NotFound(f"there is no model {missing[0]!r} that can be trained; see 'headway status'")
    wanted = {name.lower() for name in names}
    return [m for m in models if not wanted or {m.slug.lower(), f"{m.team}/{m.slug}".lower()} & wanted]


def committed_steps(session: Session, model_id: UUID, after: int, limit: int) -> list[CommittedStep]:
    """The model's steps after the `after`th, in order."""
    parent = aliased(CheckpointRow)
    query = (
        select(CheckpointRow, parent.name)
        .outerjoin(parent, parent.id == CheckpointRow.parent_id)
        .where(CheckpointRow.model_id == model_id, *_OWN)
        .order_by(CheckpointRow.committed_at, CheckpointRow.id)
        .offset(after)
        .limit(limit)
    )
    return [_step(after + 1 + index, row, name) for index, (row, name) in enumerate(session.execute(query))]


def _step(order: int, row: CheckpointRow, parent: str | None) -> CommittedStep:
    assert row.committed_at is not None
    return CommittedStep(
        order=order,
        checkpoint=row.name,
        parent=parent,
        tree_step=row.step,
        committed_at=row.committed_at,
        learning_rate=row.learning_rate,
        num_traces=row.num_traces,
        num_tokens=row.num_tokens,
        metrics=row.metrics,
    )
