"""Sampling sessions: which weights a client samples under which id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.bases import public_name
from server.client_sessions.service import get_open_session
from server.principals.callers import Caller
from store.database import AsyncDatabase
from store.tables import ModelRow, SamplingRequestRow, SamplingSessionRow
from wire.errors import InvalidRequest, NotFound

_MOST_SHOWN = 100

Kind = Literal["base", "path", "snapshot", "inflight"]


@dataclass(frozen=True, slots=True)
class SampledWeights:
    """What a sampling session stands for. checkpoint_id None: the base weights. `path`: as the client named it."""

    kind: Kind
    model_id: UUID
    checkpoint_id: UUID | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Sampler:
    """A sampling session as a client asks about it. pictures: `BaseModelInfo.pictures` of its base."""

    id: str
    base: str
    path: str | None
    pictures: Mapping[str, Any] | None = None


def sampling_session_id(session_id: str, index: int) -> str:
    """The id of the session's sampler of this number."""
    return f"{session_id}:sample:{index}"


async def open_sampling_session(
    session: AsyncSession, caller: Caller, session_id: str, index: int, weights: SampledWeights
) -> str:
    """A new sampling session, or the one of this number. Raises NotFound, SessionFinished, and InvalidRequest where
    the number belongs to other weights."""
    await get_open_session(session, caller.team_id, session_id)
    opened_id = sampling_session_id(session_id, index)
    row: dict[str, Any] = {
        "id": opened_id,
        "session_id": session_id,
        "session_index": index,
        "team_id": caller.team_id,
        "kind": weights.kind,
        "model_id": weights.model_id,
        "checkpoint_id": weights.checkpoint_id,
        "path": weights.path,
    }
    added = insert(SamplingSessionRow).values(row).on_conflict_do_nothing().returning(SamplingSessionRow.id)
    if await session.scalar(added) is None:
        known = await session.get_one(SamplingSessionRow, opened_id)
        if (known.kind, known.model_id, known.path) != (weights.kind, weights.model_id, weights.path):
            raise InvalidRequest(f"the sampling session {opened_id!r} samples other weights; use the next number")
    return opened_id


async def get_sampler(session: AsyncSession, caller: Caller, sampler_id: str) -> Sampler:
    """A sampling session of the team. Raises NotFound, Forbidden where the caller's key is for other models."""
    row = await session.get(SamplingSessionRow, sampler_id)
    if row is None or row.team_id != caller.team_id:
        raise no_such_sampler(sampler_id)
    model = await session.get_one(ModelRow, row.model_id)
    caller.require_model(model.id, model.slug)
    base = model if model.base_id is None else await session.get_one(ModelRow, model.base_id)
    return Sampler(row.id, public_name(base), row.path, (base.info or {}).get("pictures"))


async def require_request(database: AsyncDatabase, caller: Caller, request_id: UUID) -> None:
    """Raises Forbidden where the caller's key is for other models than the one that the request samples."""
    if caller.model_ids is None:
        return
    mine = SamplingRequestRow.id == request_id, SamplingRequestRow.team_id == caller.team_id
    async with database.session() as session:
        sampler_id = await session.scalar(select(SamplingRequestRow.sampling_session_id).where(*mine))
        if sampler_id is not None:
            await get_sampler(session, caller, sampler_id)


async def join_sampling_session(session: AsyncSession, caller: Caller, sampler_id: str) -> int:
    """The number of another client of the sampling session: 1, 2, … Raises as `get_sampler`."""
    await get_sampler(session, caller, sampler_id)
    mine = SamplingSessionRow.id == sampler_id, SamplingSessionRow.team_id == caller.team_id
    counted = update(SamplingSessionRow).where(*mine).values(num_clones=SamplingSessionRow.num_clones + 1)
    number = await session.scalar(counted.returning(SamplingSessionRow.num_clones))
    if number is None:
        raise no_such_sampler(sampler_id)
    return number


def no_such_sampler(sampler_id: str) -> NotFound:
    """The refusal for a sampling session that is not there, or not the team's."""
    return NotFound(f"there is no sampling session {sampler_id[:_MOST_SHOWN]!r}")
