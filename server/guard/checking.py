"""Evaluates the rules on one new thing: a checkpoint, a held-out score, or a failure for want of finite numbers.

The mark that it was looked at, the alarms, and a pause are one transaction: each thing is looked at exactly once,
whoever dies, however many servers look. They take turns by an advisory lock of the model. What takes longer (webhooks,
roll-backs) is left to `server.guard.acting`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, LiteralString
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, func, over, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import GUARD, record
from server.catalog import pausing
from server.guard.history import Step
from server.guard.paths import Paths
from server.guard.reading import Path, read_history, rows_of
from server.guard.rules import RULES, Finding
from server.guard.settings import rules_in_full
from server.guard.types import Rule
from store.database import AsyncConnection, AsyncDatabase, driver_of
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
_LOCK = "select pg_try_advisory_xact_lock(hashtextextended('guard:' || %(model_id)s, 0)) as is_ours"

_SUBJECTS: dict[Kind, LiteralString] = {
    "checkpoint": """
        select m.id, m.slug, m.team_id, g.rules, c.id as checkpoint_id, null as failure
        from checkpoints c join models m on m.id = c.model_id left join guards g on g.model_id = m.id
        where c.id = %(id)s and c.guard_checked_at is null
    """,
    "eval": """
        select m.id, m.slug, m.team_id, g.rules, e.checkpoint_id, null as failure
        from evals e join models m on m.id = e.model_id left join guards g on g.model_id = m.id
        where e.id = %(id)s and e.guard_checked_at is null
    """,
    "operation": """
        select m.id, m.slug, m.team_id, g.rules, m.head_checkpoint_id as checkpoint_id,
            coalesce(nullif(o.error_message, ''), 'no more is known') as failure
        from operations o join models m on m.id = o.model_id left join guards g on g.model_id = m.id
        where o.id = %(id)s and o.guard_checked_at is null
    """,
}
"""What is due, with its model: where it is in the tree, and what is set of the guard."""

_ALARMS = """
    select rule, step, acknowledged_at from alarms
    where model_id = %(model_id)s and (checkpoint_id = any(%(ids)s::uuid[]) or checkpoint_id is null)
    order by created_at
"""
_MARKS: dict[Kind, LiteralString] = {
    "checkpoint": "update checkpoints set guard_checked_at = clock_timestamp() where id = %(id)s",
    "eval": "update evals set guard_checked_at = clock_timestamp() where id = %(id)s",
    "operation": "update operations set guard_checked_at = clock_timestamp() where id = %(id)s",
}


@dataclass(frozen=True, slots=True)
class Due:
    """Something that nobody has looked at yet."""

    kind: Kind
    id: UUID
    model_id: UUID
    created_at: datetime


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
                if not await _is_ours(session, one.model_id):
                    elsewhere.add(one.model_id)  # another server is at it, which keeps to the order
                    continue
                num_checked += await _check(session, one, paths)
        except (ArithmeticError, LookupError, TypeError, ValueError):  # a rule that fails must not stop the others
            log.exception("guard_check_failed", kind=one.kind, id=str(one.id), model=str(one.model_id))
            async with database.session() as session:
                await _mark(session, one)
    return num_checked


async def _due(session: AsyncSession) -> list[Due]:
    """At most `_BATCH` of each kind, oldest first: an alarm keeps a rule silent at later checkpoints only. Models take
    turns, so that thousands of steps of one delay no other's alarms."""
    found = list[Due]()
    conditions: Sequence[tuple[Kind, ColumnElement[bool]]] = (
        ("operation", OperationRow.error_code == "non_finite"),
        ("checkpoint", CheckpointRow.status == "committed"),
        ("eval", true()),
    )
    for kind, condition in conditions:
        table = _TABLES[kind]
        of_its_model = over(func.row_number(), partition_by=table.model_id, order_by=table.created_at)
        query = select(table.id, table.model_id, table.created_at).where(table.guard_checked_at.is_(None), condition)
        rows = await session.execute(query.order_by(of_its_model, table.created_at).limit(_BATCH))
        found += [Due(kind, *row) for row in rows]
    return sorted(found, key=lambda one: one.created_at)


async def _is_ours(session: AsyncSession, model_id: UUID) -> bool:
    """Take the model's lock until the session ends; False where another server has it."""
    (row,) = await rows_of(await driver_of(session), _LOCK, {"model_id": str(model_id)})
    return row.is_ours


async def _check(session: AsyncSession, due: Due, paths: Paths) -> bool:
    connection = await driver_of(session)
    found = await rows_of(connection, _SUBJECTS[due.kind], {"id": due.id})
    if not found:
        return False
    (subject,) = found
    path = await paths.to(connection, subject.id, subject.checkpoint_id)
    rules = rules_in_full(subject.rules or {})
    findings = await _findings(connection, subject, path, rules, due)
    if findings:
        model = await session.get_one(ModelRow, due.model_id)
        await _raise_alarms(session, model, path.steps[-1] if path.steps else None, rules, due, findings)
    await _mark(session, due)
    return True


async def _findings(
    connection: AsyncConnection, subject: Any, path: Path, rules: Mapping[str, Rule], due: Due
) -> dict[str, Finding]:
    history = await read_history(connection, subject, path, subject.failure)
    if due.kind == "eval":  # of all benchmarks, the rules look at the one whose score came last
        scores = sorted(history.scores, key=lambda score: score.id == due.id)
        history = replace(history, scores=scores)
    earlier = await _earlier_alarms(connection, due.model_id, path)
    found = dict[str, Finding]()
    for name, rule in RULES.items():
        before = earlier.get(name)
        if not rules[name].enabled or (before is not None and before.acknowledged_at is None):
            continue
        seen = history.since(before.step) if before is not None else history
        finding = rule.find(seen, rules[name].parameters)
        if finding is not None:
            found[name] = finding
    return found


async def _earlier_alarms(connection: AsyncConnection, model_id: UUID, path: Path) -> dict[str, Any]:
    """Of each rule the newest alarm on this path. While it is not acknowledged, the rule stays silent there."""
    rows = await rows_of(connection, _ALARMS, {"model_id": model_id, "ids": path.ids()})
    return {row.rule: row for row in rows}


async def _raise_alarms(
    session: AsyncSession,
    model: ModelRow,
    checkpoint: Step | None,
    rules: Mapping[str, Rule],
    due: Due,
    findings: dict[str, Finding],
) -> None:
    # The model's row is locked before anything refers to it: the other way round, a step's commit could lock us out.
    for name, finding in findings.items():
        if "pause" in rules[name].actions:
            await pausing.pause(session, model.id, _shortened(f"{name}: {finding.message}"), GUARD, "guard")
    for name, finding in findings.items():
        actions = rules[name].actions
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
    await (await driver_of(session)).execute(_MARKS[due.kind], {"id": due.id})
