"""What alarms ask for beyond the database: webhooks and roll-backs. Each is tried again a few times, by whichever
server comes first; one that was done and not written down is recognised by what it left behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import GUARD, record
from server.context import Context
from server.guard.history import Score
from server.guard.reading import BASE, path_to, scores_on
from server.guard.settings import read_guard
from server.guard.webhooks import WebhookFailed, deliver
from server.models import pausing
from server.models.heads import roll_to
from store.tables import AlarmRow, CheckpointRow, ModelRow
from wire.errors import HeadwayError, InvalidRequest

log = structlog.get_logger(__name__)

ATTEMPTS = 5
_LEASE_S = 180.0
"""Longer than an attempt takes: samplers load the checkpoint, and the receiver answers."""
_LEFT = "the head had been moved elsewhere meanwhile, and was left there"


@dataclass(frozen=True, slots=True)
class Goal:
    """Where a roll-back goes. `score` None: nowhere, for `why`."""

    score: Score | None
    why: str


async def act_due(context: Context) -> int:
    """Do what alarms wait for; how many alarms that were."""
    num_tried = 0
    while alarm := await _take(context):
        await _act(context, alarm)
        num_tried += 1
    return num_tried


async def _take(context: Context) -> AlarmRow | None:
    """An alarm that is due, which others leave alone for a while."""
    async with context.database.session() as session:
        due = select(AlarmRow).where(AlarmRow.state == "pending", AlarmRow.try_at <= func.clock_timestamp())
        alarm = await session.scalar(due.order_by(AlarmRow.try_at).limit(1).with_for_update(skip_locked=True))
        if alarm is None:
            return None
        alarm.attempts += 1
        alarm.try_at = await _in(session, _LEASE_S)
        if alarm.head_before is None:
            head = (await session.get_one(ModelRow, alarm.model_id)).head_checkpoint_id
            alarm.head_before = str(head) if head else BASE
        await session.flush()
        return alarm


async def _act(context: Context, alarm: AlarmRow) -> None:
    outcome, failures = dict(alarm.outcome), dict[str, str]()
    if "rollback" in alarm.actions and "rollback" not in outcome:
        try:
            outcome["rollback"] = await _roll_back(context, alarm)
        except _Undone:
            return
        except HeadwayError as error:
            failures["rollback"] = error.message
    last = alarm.attempts >= ATTEMPTS
    if "webhook" in alarm.actions and "webhook" not in outcome and ("rollback" not in failures or last):
        try:
            outcome["webhook"] = await _tell(context, alarm, {**outcome, **failures})
        except (WebhookFailed, InvalidRequest) as error:
            failures["webhook"] = str(error)
    await _write(context, alarm, outcome, failures)


async def _roll_back(context: Context, alarm: AlarmRow) -> str:
    """Back to the best held-out checkpoint; what came of it. Without a held-out score the model is paused instead.

    Raises _Undone where somebody took the alarm back before anything was done.
    """
    async with context.database.session() as session:
        await _lock_pending(session, alarm)
        model = await session.get_one(ModelRow, alarm.model_id)
        head = model.head_checkpoint_id
        goal = await _goal(session, alarm)
        if goal.score is None:
            reason = f"{alarm.rule}: {alarm.message}"[:1000]
            await pausing.pause(session, model.id, reason, GUARD, "guard")
            return f"{goal.why}, so the model was paused instead"
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
        row.head_after = to

    try:
        why = f"{alarm.rule}: {alarm.message}"[:1000]
        await roll_to(context, model, to if to != BASE else None, GUARD, why, check)
    except _HeadMoved:
        return _LEFT
    alarm.head_after = to
    return f"{goal.why}; the head was set to it"


class _Undone(Exception):
    """Somebody has taken the alarm back."""


class _HeadMoved(Exception):
    """The head is on a branch that the alarm does not speak of."""


async def _lock_pending(session: AsyncSession, alarm: AlarmRow) -> AlarmRow:
    row = await session.get_one(AlarmRow, alarm.id, with_for_update=True, populate_existing=True)
    if row.state != "pending":
        raise _Undone
    return row


async def _was_moved(session: AsyncSession, alarm: AlarmRow, head: UUID | None) -> bool:
    on_path = {row.id for row in await path_to(session, head)}
    return alarm.checkpoint_id is not None and alarm.checkpoint_id not in on_path


def _named(checkpoint_id: UUID | None) -> str:
    return str(checkpoint_id) if checkpoint_id else BASE


async def _goal(session: AsyncSession, alarm: AlarmRow) -> Goal:
    path = await path_to(session, alarm.checkpoint_id)
    kept = {row.id for row in path if row.files_removed_at is None}
    scores = await scores_on(session, alarm.model_id, path)
    usable = [score for score in scores if score.checkpoint_id is None or score.checkpoint_id in kept]
    benchmark = alarm.evidence.get("benchmark") or _most_scored(usable)
    return best_of([score for score in usable if score.benchmark == benchmark], path)


def _most_scored(scores: Sequence[Score]) -> str | None:
    names = [score.benchmark for score in scores]
    return max(names, key=names.count) if names else None


def best_of(scores: Sequence[Score], path: Sequence[CheckpointRow]) -> Goal:
    """The best score; of equal ones the latest, which has learned most."""
    if not scores:
        return Goal(None, "no checkpoint on the way to the head has a held-out score to roll back to")
    best = max(scores, key=lambda score: (score.goodness, score.step))
    return Goal(best, f"{best.checkpoint_name} has the best {best.benchmark} on the way here ({best.score:.3f})")


async def _tell(context: Context, alarm: AlarmRow, outcome: dict[str, str]) -> str:
    async with context.database.session() as session:
        url = (await read_guard(session, alarm.model_id)).webhook_url
        model = await session.get_one(ModelRow, alarm.model_id)
    if url is None:
        return "no webhook_url is set, so nobody was told"
    body = {
        "alarm": str(alarm.id),
        "model": model.slug,
        "model_id": str(model.id),
        "rule": alarm.rule,
        "message": alarm.message,
        "evidence": alarm.evidence,
        "checkpoint_id": str(alarm.checkpoint_id) if alarm.checkpoint_id else None,
        "step": alarm.step,
        "outcome": outcome,
        "created_at": alarm.created_at.isoformat(),
    }
    return await deliver(context.settings.guard, url, str(alarm.id), body)


async def _write(context: Context, alarm: AlarmRow, outcome: dict[str, str], failures: dict[str, str]) -> None:
    async with context.database.session() as session:
        row = await session.get_one(AlarmRow, alarm.id, with_for_update=True)
        if row.state != "pending":  # undone meanwhile
            return
        gives_up = bool(failures) and row.attempts >= ATTEMPTS
        told = {name: f"failed {row.attempts} times: {why}" for name, why in failures.items()} if gives_up else {}
        row.outcome = {**row.outcome, **outcome, **told}
        row.head_after = alarm.head_after
        if not failures:
            row.state = "done"
        elif gives_up:
            row.state = "failed"
        else:
            row.try_at = await _in(session, context.settings.guard.retry_s * 2 ** (row.attempts - 1))
        if row.state != "pending":
            model = await session.get_one(ModelRow, row.model_id)
            acted = {"alarm": str(row.id), "rule": row.rule, "outcome": row.outcome}
            record(session, GUARD, "alarm_acted", team_id=model.team_id, subject_id=model.id, **acted)
    log.info("guard_acted", alarm=str(alarm.id), outcome=outcome, failures=failures)


async def _in(session: AsyncSession, seconds: float) -> datetime:
    now = await session.scalar(select(func.clock_timestamp()))
    assert now is not None
    return now + timedelta(seconds=seconds)
