"""Evaluates the rules on one new thing: a checkpoint, a held-out score, or a failure for want of finite numbers.

The mark that it was looked at, the alarms, and a pause are one transaction: each thing is looked at exactly once,
whoever dies, however many servers look. They take turns by an advisory lock of the model. What takes longer (webhooks,
roll-backs) is left to `server.guard.acting`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, any_, func, or_, over, select, text, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import GUARD, record
from server.catalog import pausing
from server.guard.history import History, Step
from server.guard.paths import Paths
from server.guard.reading import Path, ids_of, read_history
from server.guard.rules import RULES, Finding
from server.guard.settings import read_guard
from server.guard.types import Guard
from store.database import AsyncDatabase
from store.tables import AlarmRow, CheckpointRow, EvalRow, ModelRow, OperationRow

log = structlog.get_logger(__name__)

Kind = Literal["checkpoint", "eval", "operation"]

_BATCH = 50
_LOOK_S = 1.0
"""After this time, and one thing of each model, it is asked anew what is due: who came since takes a turn there."""

_TABLES: dict[Kind, type[CheckpointRow | EvalRow | OperationRow]] = {
    "checkpoint": CheckpointRow,
    "eval": EvalRow,
    "operation": OperationRow,
}
_LOCK = text("select pg_try_advisory_xact_lock(hashtextextended('guard:' || :model_id, 0))")


@dataclass(frozen=True, slots=True)
class Due:
    """Something that nobody has looked at yet."""

    kind: Kind
    id: UUID
    model_id: UUID


async def check_due(database: AsyncDatabase, paths: Paths) -> int:
    """Look at some of what is new, oldest first; how many things that were. 0: at everything that nobody else is at."""
    async with database.session() as session:
        due = await _due(session)
    until, num_checked, elsewhere, served = time.monotonic() + _LOOK_S, 0, set[UUID](), set[UUID]()
    for one in due:
        if one.model_id in elsewhere or (one.model_id in served and time.monotonic() >= until):
            continue
        served.add(one.model_id)
        try:
            async with database.session() as session:
                if not await session.scalar(_LOCK, {"model_id": str(one.model_id)}):
                    elsewhere.add(one.model_id)  # another server is at it, which keeps to the order
                    continue
                num_checked += await _check(session, one, paths)
        except (ArithmeticError, LookupError, TypeError, ValueError):  # a rule that fails must not stop the others
            log.exception("guard_check_failed", kind=one.kind, id=str(one.id), model=str(one.model_id))
            async with database.session() as session:
                await _mark(session, one)
    return num_checked


async def _due(session: AsyncSession) -> list[Due]:
    """At most `_BATCH` of each kind. Models take turns, so that thousands of steps of one delay no other's alarms."""
    found = list[Due]()
    conditions: Sequence[tuple[Kind, ColumnElement[bool]]] = (
        ("operation", OperationRow.error_code == "non_finite"),
        ("checkpoint", CheckpointRow.status == "committed"),
        ("eval", true()),
    )
    for kind, condition in conditions:
        table = _TABLES[kind]
        of_its_model = over(func.row_number(), partition_by=table.model_id, order_by=table.created_at)
        query = select(table.id, table.model_id).where(table.guard_checked_at.is_(None), condition)
        rows = await session.execute(query.order_by(of_its_model, table.created_at).limit(_BATCH))
        found += [Due(kind, *row) for row in rows]
    return found


async def _check(session: AsyncSession, due: Due, paths: Paths) -> bool:
    table = _TABLES[due.kind]
    row = await session.scalar(select(table).where(table.id == due.id, table.guard_checked_at.is_(None)))
    if row is None:
        return False
    model = await session.get_one(ModelRow, due.model_id)
    at = row.id if isinstance(row, CheckpointRow) else model.head_checkpoint_id
    failure = None
    if isinstance(row, EvalRow):
        at = row.checkpoint_id
    if isinstance(row, OperationRow):
        failure = row.error_message or "no more is known"
    path = await paths.to(session, model.id, at)
    guard = await read_guard(session, model.id)
    findings = await _findings(session, model, path, guard, due, failure)
    await _raise_alarms(session, model, path.steps[-1] if path.steps else None, guard, due, findings)
    await _mark(session, due)
    return True


async def _findings(
    session: AsyncSession,
    model: ModelRow,
    path: Path,
    guard: Guard,
    due: Due,
    failure: str | None,
) -> dict[str, Finding]:
    history = await read_history(session, model, path, failure)
    if due.kind == "eval":  # of all benchmarks, the rules look at the one whose score came last
        scores = sorted(history.scores, key=lambda score: score.id == due.id)
        history = History(history.model, history.steps, scores, history.components, history.failure)
    earlier = await _earlier_alarms(session, model.id, path)
    found = dict[str, Finding]()
    for name, rule in RULES.items():
        before = earlier.get(name)
        if not guard.rules[name].enabled or (before is not None and before.acknowledged_at is None):
            continue
        seen = history.since(before.step) if before is not None else history
        finding = rule.find(seen, guard.rules[name].parameters)
        if finding is not None:
            found[name] = finding
    return found


async def _earlier_alarms(session: AsyncSession, model_id: UUID, path: Path) -> dict[str, AlarmRow]:
    """Of each rule the newest alarm on this path. While it is not acknowledged, the rule stays silent there."""
    on_path = or_(AlarmRow.checkpoint_id == any_(ids_of(path.steps)), AlarmRow.checkpoint_id.is_(None))
    query = select(AlarmRow).where(AlarmRow.model_id == model_id, on_path).order_by(AlarmRow.created_at)
    return {row.rule: row for row in await session.scalars(query)}


async def _raise_alarms(
    session: AsyncSession,
    model: ModelRow,
    checkpoint: Step | None,
    guard: Guard,
    due: Due,
    findings: dict[str, Finding],
) -> None:
    # The model's row is locked before anything refers to it: the other way round, a step's commit could lock us out.
    for name, finding in findings.items():
        if "pause" in guard.rules[name].actions:
            await pausing.pause(session, model.id, _shortened(f"{name}: {finding.message}"), GUARD, "guard")
    for name, finding in findings.items():
        actions = guard.rules[name].actions
        later = {"webhook", "rollback"}.intersection(actions)
        outcome = {"pause": "training calls are refused until the model is resumed"} if "pause" in actions else {}
        alarm = AlarmRow(
            id=uuid.uuid4(),
            model_id=model.id,
            rule=name,
            subject_id=due.id,
            checkpoint_id=checkpoint.id if checkpoint else None,
            step=checkpoint.step if checkpoint else 0,
            message=finding.message,
            evidence=finding.evidence,
            actions=actions,
            state="pending" if later else "done" if actions else "noted",
            outcome=outcome,
        )
        session.add(alarm)
        facts = {"alarm": str(alarm.id), "rule": name, "message": finding.message, "actions": list(actions)}
        record(session, GUARD, "alarm", team_id=model.team_id, subject_id=model.id, **facts)
        log.warning("guard_alarm", model=model.slug, rule=name, message=finding.message, actions=list(actions))
    await session.flush()


def _shortened(reason: str) -> str:
    return reason if len(reason) <= 1000 else reason[:999] + "…"


async def _mark(session: AsyncSession, due: Due) -> None:
    table = _TABLES[due.kind]
    await session.execute(update(table).where(table.id == due.id).values(guard_checked_at=func.clock_timestamp()))
