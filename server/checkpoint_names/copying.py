"""Copies of checkpoints: a model of the caller's team whose root refers to the same files, under the same name.

A copy outlives what it was copied from: its files stay as long as one of both needs them.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of, record
from server.catalog.forks import take_over
from server.catalog.runs import NewRun, RunKey, create_run_from
from server.checkpoint_names.changing import expiry
from server.checkpoint_names.paths import path_of
from server.checkpoint_names.resolving import resolve_path
from server.checkpoint_names.types import NamedCheckpoint
from server.principals.callers import Caller
from server.principals.quotas import refuse_another_model
from store.tables import CheckpointNameRow, ModelRow

_COPIES = uuid.UUID("6f0a3c0e-3f7b-4b52-9d0a-0f6f5d3c1c55")


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """What to copy, for how long. `run`: of which session the copy shall be a run; None: of none. Requests with the
    same `idempotency_key` make one copy."""

    source_path: str
    ttl_seconds: int | None = None
    run: RunKey | None = None
    idempotency_key: str | None = None


async def copy_checkpoint(session: AsyncSession, caller: Caller, request: CopyRequest) -> str:
    """The path of the copy. Raises NotFound, InvalidRequest, QuotaFull, Forbidden for a key that is for some models."""
    caller.require_whole_team("copy a checkpoint")
    expires_at = await expiry(session, request.ttl_seconds)
    found = await resolve_path(session, caller, request.source_path, "copying")
    model = await _model(session, caller, found, request)
    name = {
        "model_id": model.id,
        "kind": found.kind,
        "name": found.name,
        "checkpoint_id": model.head_checkpoint_id,
        "size_bytes": found.size_bytes,
        "user_metadata": found.user_metadata,
        "expires_at": expires_at,
    }
    await session.execute(insert(CheckpointNameRow).values(id=uuid.uuid4(), **name).on_conflict_do_nothing())
    return path_of(model, found.kind, found.name)


async def _model(session: AsyncSession, caller: Caller, found: NamedCheckpoint, request: CopyRequest) -> ModelRow:
    if request.run is not None:
        new = NewRun(request.run, user_metadata=found.model.user_metadata)
        has_moments = found.kind == "training" and found.checkpoint.state_removed_at is None
        return await create_run_from(session, caller, found.model, found.checkpoint, new, with_moments=has_moments)
    model_id = _id_of_copy(caller.team_id, request.idempotency_key)
    known = await session.scalar(select(ModelRow).where(ModelRow.id == model_id, ModelRow.team_id == caller.team_id))
    if known is not None:
        return known
    await refuse_another_model(session, caller.team_id)
    slug = f"copy-{model_id.hex[:12]}"
    model = ModelRow(
        id=model_id,
        team_id=caller.team_id,
        slug=slug,
        name=slug,
        base_id=found.base.id,
        forked_from_id=found.model.id,
        lora=found.model.lora,
        user_metadata=found.model.user_metadata,
    )
    session.add(model)
    await session.flush()
    await take_over(session, model, found.checkpoint)
    detail = {"source": found.path}
    record(session, actor_of(caller), "copy_checkpoint", team_id=caller.team_id, subject_id=model.id, **detail)
    return model


def _id_of_copy(team_id: UUID, key: str | None) -> UUID:
    """The same for requests of a team with the same key."""
    return uuid.uuid4() if key is None else uuid.uuid5(_COPIES, f"{team_id}:{key}")
