"""Pauses a model: its next training calls are refused with the reason; sampling goes on, and so does what was
accepted before.

Who paused decides who may resume: what an operator paused, only an operator.
"""

from __future__ import annotations

from typing import ClassVar, Literal
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import Actor, record
from server.catalog.bases import untrained
from server.catalog.service import lock_model
from store.admission import Admission
from store.tables import ModelRow
from wire.errors import FINAL, Conflict, Forbidden

Authority = Literal["team", "guard", "admin"]


class ModelPaused(Conflict):
    """Training of the model is paused."""

    code: ClassVar[str] = "paused"
    tries: ClassVar[int | None] = FINAL


async def pause(session: AsyncSession, model_id: UUID, reason: str, actor: Actor, authority: Authority) -> ModelRow:
    """Refuse training calls from now on. One that is paused gets the new reason; an operator's pause stays one.

    Raises Forbidden for a base model, which is not trained.
    """
    model = await _locked_fork(session, model_id)
    model.paused_at = model.paused_at or await session.scalar(select(func.clock_timestamp()))
    model.pause_reason = reason
    model.paused_by = "admin" if "admin" in (model.paused_by, authority) else authority
    record(session, actor, "pause", team_id=model.team_id, subject_id=model.id, reason=reason)
    await session.flush()
    return model


async def resume(session: AsyncSession, model_id: UUID, actor: Actor, authority: Authority) -> ModelRow:
    """Accept training calls again; without effect on one that is not paused.

    Raises Forbidden where an operator paused it, and `authority` is less.
    """
    model = await _locked_fork(session, model_id)
    if model.paused_at is None:
        return model
    if model.paused_by == "admin" and authority != "admin":
        raise Forbidden(
            f"{model.slug!r} was paused by an operator ({model.pause_reason}); only an operator can resume it"
        )
    record(session, actor, "resume", team_id=model.team_id, subject_id=model.id, paused_for=model.pause_reason)
    model.paused_at = model.pause_reason = model.paused_by = None
    await session.flush()
    return model


def refuse_paused(found: Admission) -> None:
    """Raises ModelPaused, with the reason and who can resume."""
    if found.paused_at is None:
        return
    by = {"admin": "an operator", "guard": "the guard"}.get(found.paused_by or "", "its team")
    how = "'headway resume'" if found.paused_by == "admin" else f"POST /v2/models/{found.model_id}/resume"
    who = "an operator" if found.paused_by == "admin" else "who may train it"
    raise ModelPaused(
        f"training of {found.slug!r} is paused since {found.paused_at:%Y-%m-%d %H:%M:%S %Z} by {by}: "
        f"{found.pause_reason}; {who} can resume it with {how}"
    )


async def _locked_fork(session: AsyncSession, model_id: UUID) -> ModelRow:
    model = await lock_model(session, model_id, str(model_id))
    if model.base_id is None:
        raise Forbidden(f"{model.slug!r} is {untrained(model)}, which is not trained; pause the forks of a base")
    return model
