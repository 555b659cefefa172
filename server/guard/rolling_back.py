"""Rolls a model back to its best held-out checkpoint, unless the head was moved meanwhile.

Samplers load the checkpoint before the head moves, which takes a while. In the transaction that moves it the alarm is
still pending, and the head is still on the branch that the alarm is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import GUARD
from server.catalog import pausing
from server.catalog.heads import Heads, roll_to
from server.guard.history import Score
from server.guard.reading import BASE, path_to, scores_on
from store.database import driver_of
from store.tables import AlarmRow, CheckpointRow, ModelRow

_LEFT = "the head had been moved elsewhere meanwhile, and was left there"


@dataclass(frozen=True, slots=True)
class Goal:
    """Where a roll-back goes. `score` None: nowhere, for `why`."""

    score: Score | None
    why: str


async def roll_back(heads: Heads, alarm: AlarmRow) -> str:
    """Back to the best held-out checkpoint; what came of it. Without a held-out score the model is paused instead.

    Raises Undone where somebody took the alarm back before anything was done.
    """
    async with heads.database.session() as session:
        row = await _lock_pending(session, alarm)
        model = await session.get_one(ModelRow, alarm.model_id)
        head = model.head_checkpoint_id
        goal = await _goal(session, alarm)
        if goal.score is None:
            reason = f"{alarm.rule}: {alarm.message}"[:1000]
            await pausing.pause(session, model.id, reason, GUARD, "guard")
            why = f"{goal.why}, so the model was paused instead"
            row.outcome = {**row.outcome, "rollback": why}  # with the pause: an undo has to know of it
            return why
        if head == goal.score.checkpoint_id:
            alarm.head_after = _named(head)
            moved = alarm.head_before != alarm.head_after
            return f"{goal.why}; the head was set to it" if moved else f"{goal.why}; the head was there already"
        if await _was_moved(session, alarm, head):
            return _LEFT
    to = _named(goal.score.checkpoint_id)

    async def check(session: AsyncSession) -> None:
        """The alarm first, then the model: the order in which an undo locks them."""
        row = await _lock_pending(session, alarm)
        model = await session.get_one(ModelRow, alarm.model_id, with_for_update=True, populate_existing=True)
        if await _was_moved(session, alarm, model.head_checkpoint_id):
            raise _HeadMoved
        row.head_before = _named(model.head_checkpoint_id)  # training went on since the first attempt
        row.head_after = to

    try:
        why = f"{alarm.rule}: {alarm.message}"[:1000]
        await roll_to(heads, model, to if to != BASE else None, GUARD, why, check)
    except _HeadMoved:
        return _LEFT
    alarm.head_after = to
    return f"{goal.why}; the head was set to it"


class Undone(Exception):
    """Somebody has taken the alarm back."""


class _HeadMoved(Exception):
    """The head is on another branch than the alarm's."""


async def _lock_pending(session: AsyncSession, alarm: AlarmRow) -> AlarmRow:
    row = await session.get_one(AlarmRow, alarm.id, with_for_update=True, populate_existing=True)
    if row.state != "pending":
        raise Undone
    return row


async def _was_moved(session: AsyncSession, alarm: AlarmRow, head: UUID | None) -> bool:
    path, _ = await path_to(await driver_of(session), head)
    on_path = {step.id for step in path.steps}
    return alarm.checkpoint_id is not None and alarm.checkpoint_id not in on_path


def _named(checkpoint_id: UUID | None) -> str:
    return str(checkpoint_id) if checkpoint_id else BASE


async def _goal(session: AsyncSession, alarm: AlarmRow) -> Goal:
    connection = await driver_of(session)
    path, _ = await path_to(connection, alarm.checkpoint_id)
    scores = await scores_on(connection, alarm.model_id, path)
    scored = [score.checkpoint_id for score in scores if score.checkpoint_id]
    with_files = select(CheckpointRow.id).where(CheckpointRow.files_removed_at.is_(None), CheckpointRow.id.in_(scored))
    kept = set(await session.scalars(with_files))
    usable = [score for score in scores if score.checkpoint_id is None or score.checkpoint_id in kept]
    benchmark = alarm.evidence.get("benchmark") or _most_scored(usable)
    return best_of([score for score in usable if score.benchmark == benchmark])


def _most_scored(scores: Sequence[Score]) -> str | None:
    names = [score.benchmark for score in scores]
    return max(names, key=names.count) if names else None


def best_of(scores: Sequence[Score]) -> Goal:
    """The best score; of equal ones the latest, which has learned most."""
    if not scores:
        return Goal(None, "no checkpoint on the way to the head has a held-out score to roll back to")
    best = max(scores, key=lambda score: (score.goodness, score.step))
    return Goal(best, f"{best.checkpoint_name} has the best {best.benchmark} on the way here ({best.score:.3f})")
