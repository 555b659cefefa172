"""What alarms ask for beyond the database: webhooks and roll-backs. Each is tried again a few times, by whichever
server comes first; one that was done and not written down is recognised by what it left behind."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import GUARD, record
from server.catalog.heads import Heads
from server.guard.reading import BASE
from server.guard.rolling_back import Undone, roll_back
from server.guard.settings import read_guard
from server.guard.webhooks import WebhookFailed, deliver
from server.process.settings import GuardSettings
from server.process.shutdown import ServerStopping
from store.database import AsyncDatabase
from store.tables import AlarmRow, ModelRow
from wire.errors import HeadwayError, InvalidRequest

log = structlog.get_logger(__name__)

ATTEMPTS = 5
_LEASE_S = 180.0
"""Longer than an attempt takes: samplers load the checkpoint, and the receiver answers."""


async def act_due(heads: Heads, settings: GuardSettings) -> int:
    """Do what alarms wait for; how many alarms that were."""
    num_tried = 0
    while alarm := await _take(heads.database):
        await _act(heads, settings, alarm)
        num_tried += 1
    return num_tried


async def _take(database: AsyncDatabase) -> AlarmRow | None:
    """An alarm that is due, which others leave alone for a while."""
    async with database.session() as session:
        due = select(AlarmRow).where(AlarmRow.state == "pending", AlarmRow.try_at <= func.clock_timestamp())
        alarm = await session.scalar(due.order_by(AlarmRow.try_at).limit(1).with_for_update(skip_locked=True))
        if alarm is None:
            return None
        alarm.attempts += 1
        alarm.try_at = await _in(session, _LEASE_S)
        if alarm.head_before is None:  # a roll-back writes it again, as it is when the head moves
            head = (await session.get_one(ModelRow, alarm.model_id)).head_checkpoint_id
            alarm.head_before = str(head) if head else BASE
        await session.flush()
        return alarm


async def _act(heads: Heads, settings: GuardSettings, alarm: AlarmRow) -> None:
    outcome, failures = dict(alarm.outcome), dict[str, str]()
    if "rollback" in alarm.actions and "rollback" not in outcome:
        try:
            outcome["rollback"] = await roll_back(heads, alarm)
        except Undone:
            return
        except ServerStopping:  # no failure of the roll-back: another server does it
            raise
        except HeadwayError as error:
            failures["rollback"] = error.message
    last = alarm.attempts >= ATTEMPTS
    if "webhook" in alarm.actions and "webhook" not in outcome and ("rollback" not in failures or last):
        try:
            outcome["webhook"] = await _tell(heads.database, settings, alarm, {**outcome, **failures})
        except (WebhookFailed, InvalidRequest) as error:
            failures["webhook"] = str(error)
    await _write(heads.database, settings.retry_s, alarm, outcome, failures)


async def _tell(database: AsyncDatabase, settings: GuardSettings, alarm: AlarmRow, outcome: dict[str, str]) -> str:
    async with database.session() as session:
        url = (await read_guard(session, alarm.model_id)).webhook_url
        model = await session.get_one(ModelRow, alarm.model_id)
    if url is None:
        return "no webhook_url is set, so nothing was sent"
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
    return await deliver(settings, url, str(alarm.id), body)


async def _write(
    database: AsyncDatabase, retry_s: float, alarm: AlarmRow, outcome: dict[str, str], failures: dict[str, str]
) -> None:
    async with database.session() as session:
        row = await session.get_one(AlarmRow, alarm.id, with_for_update=True)
        if row.state != "pending":  # undone meanwhile
            return
        gives_up = bool(failures) and row.attempts >= ATTEMPTS
        given_up = {name: f"failed {row.attempts} times: {why}" for name, why in failures.items()} if gives_up else {}
        row.outcome = {**row.outcome, **outcome, **given_up}
        row.head_after = alarm.head_after
        if not failures:
            row.state = "done"
        elif gives_up:
            row.state = "failed"
        else:
            row.try_at = await _in(session, retry_s * 2 ** (row.attempts - 1))
        if row.state != "pending":
            model = await session.get_one(ModelRow, row.model_id)
            acted = {"alarm": str(row.id), "rule": row.rule, "outcome": row.outcome}
            record(session, GUARD, "alarm_acted", team_id=model.team_id, subject_id=model.id, **acted)
    log.info("guard_acted", alarm=str(alarm.id), outcome=outcome, failures=failures)


async def _in(session: AsyncSession, seconds: float) -> datetime:
    now = await session.scalar(select(func.clock_timestamp()))
    assert now is not None
    return now + timedelta(seconds=seconds)
