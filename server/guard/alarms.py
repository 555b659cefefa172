"""Alarms as people read them, and what they do about them."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of, record
from server.catalog import pausing
from server.catalog.heads import Heads, roll_to
from server.guard.reading import BASE
from server.guard.types import Alarm
from server.principals.callers import Caller
from server.values.paging import Page, page_of
from store.tables import AlarmRow, ModelRow
from wire.errors import Conflict, NotFound


async def list_alarms(
    session: AsyncSession, model_id: UUID, *, only_open: bool, cursor: str | None, limit: int
) -> Page[Alarm]:
    """A model's alarms, newest first. `only_open`: those that nobody has acknowledged or undone."""
    query = select(AlarmRow).where(AlarmRow.model_id == model_id)
    if only_open:
        query = query.where(AlarmRow.acknowledged_at.is_(None))
    place = (AlarmRow.created_at, AlarmRow.id)
    rows, following = await page_of(session, query, place, cursor, limit, newest_first=True)
    return Page(items=[describe(row) for (row,) in rows], next_cursor=following)


async def acknowledge(
    session: AsyncSession, caller: Caller, model: ModelRow, alarm_id: UUID, comment: str | None
) -> Alarm:
    """It needs no more attention: from here on its rule looks at what comes later. Raises NotFound."""
    alarm = await _locked(session, model.id, alarm_id)
    if alarm.acknowledged_at is None:
        await _acknowledge(session, alarm)
        why = {"comment": comment} if comment else {}
        facts = {"alarm": str(alarm.id), "rule": alarm.rule, **why}
        record(session, actor_of(caller), "acknowledge_alarm", team_id=model.team_id, subject_id=model.id, **facts)
    return describe(alarm)


async def undo(heads: Heads, caller: Caller, model: ModelRow, alarm_id: UUID) -> Alarm:
    """Take back what the guard did: the head goes where it was, and training goes on. The alarm is acknowledged.

    Raises NotFound, Conflict where nothing was done or the head moved since, and what `roll_to` and `resume` raise.
    """
    async with heads.database.session() as session:
        alarm = await _locked(session, model.id, alarm_id)
        _refuse_undoing(alarm)
        # Whoever is about to act on it finds that it is not pending any more.
        was, alarm.state = alarm.state, "undone"
        head = (await session.get_one(ModelRow, model.id, populate_existing=True)).head_checkpoint_id
        now = str(head) if head else BASE
        rolled = alarm.head_after is not None and alarm.head_after != alarm.head_before
        if rolled and now not in (alarm.head_after, alarm.head_before):
            raise _head_moved(alarm)
    if rolled and now == alarm.head_after:
        before = alarm.head_before if alarm.head_before != BASE else None

        async def check(session: AsyncSession) -> None:
            """Steps may have been committed while samplers loaded the checkpoint."""
            alarm = await _locked(session, model.id, alarm_id)
            _refuse_undoing(alarm)
            if await _locked_head(session, model.id) != alarm.head_after:
                raise _head_moved(alarm)

        try:
            await roll_to(heads, model, before, actor_of(caller), f"undoes alarm {alarm.id} ({alarm.rule})", check)
        except BaseException:
            async with heads.database.session() as session:
                alarm = await _locked(session, model.id, alarm_id)
                if alarm.undone_at is None:
                    alarm.state = was
            raise
    async with heads.database.session() as session:
        alarm = await _locked(session, model.id, alarm_id)
        if _paused(alarm):  # not sooner: a step would be committed on the head that is left
            paused = await session.get_one(ModelRow, model.id, with_for_update=True, populate_existing=True)
            if paused.paused_by == "guard":
                await pausing.resume(session, model.id, actor_of(caller), "team")
        alarm.undone_at = await session.scalar(select(func.clock_timestamp()))
        await _acknowledge(session, alarm)
        facts = {"alarm": str(alarm.id), "rule": alarm.rule}
        record(session, actor_of(caller), "undo_alarm", team_id=model.team_id, subject_id=model.id, **facts)
        await session.flush()
        return describe(alarm)


def describe(row: AlarmRow) -> Alarm:
    """An alarm as clients read it."""
    return Alarm.model_validate(row, from_attributes=True)


def _paused(alarm: AlarmRow) -> bool:
    return "pause" in alarm.outcome or "paused instead" in alarm.outcome.get("rollback", "")


def _refuse_undoing(alarm: AlarmRow) -> None:
    if alarm.undone_at is not None:
        raise Conflict("this alarm was undone already")
    if not alarm.actions:
        raise Conflict("this alarm was only noted, so there is nothing to undo; acknowledge it")
    if not {"pause", "rollback"}.intersection(alarm.actions):
        raise Conflict("a webhook cannot be taken back; acknowledge the alarm")


def _head_moved(alarm: AlarmRow) -> Conflict:
    return Conflict(
        "the head has moved since the guard set it, so going back would lose what came after; "
        f"PUT /v2/models/{alarm.model_id}/head does that, with checkpoint_id {alarm.head_before}"
    )


async def _locked_head(session: AsyncSession, model_id: UUID) -> str:
    """Where the head is, and stays until the transaction ends."""
    model = await session.get_one(ModelRow, model_id, with_for_update=True, populate_existing=True)
    return str(model.head_checkpoint_id) if model.head_checkpoint_id else BASE


async def _acknowledge(session: AsyncSession, alarm: AlarmRow) -> None:
    alarm.acknowledged_at = alarm.acknowledged_at or await session.scalar(select(func.clock_timestamp()))
    await session.flush()


async def _locked(session: AsyncSession, model_id: UUID, alarm_id: UUID) -> AlarmRow:
    alarm = await session.get(AlarmRow, alarm_id, with_for_update=True, populate_existing=True)
    if alarm is None or alarm.model_id != model_id:
        raise NotFound(f"this model has no alarm {alarm_id}")
    return alarm
