"""Training runs: models that a client makes in one of its sessions, on a base or from a checkpoint.

A run is a model like any other. Its number within the session makes it the same run when the client asks again; its
adapter's shape is the client's choice, and steps move its head without a promotion.
"""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of, record
from server.catalog import repository
from server.catalog.bases import base_by_name
from server.catalog.forks import is_free_name, take_over
from server.catalog.lora import part_left_out, require_servable
from server.catalog.run_ids import parse_run_id, run_id_of
from server.client_sessions.service import get_open_session, session_finished
from server.principals.callers import Caller
from server.principals.quotas import refuse_another_model
from server.values.sanitizing import is_storable
from store.tables import CheckpointRow, ModelRow
from wire.errors import Conflict, InvalidRequest, NotFound, NumberReused
from wire.lora import LoraConfig

_MOST_RUNS = 10**9
_NAMES = ("slug", "name")
"""Keys of a user's metadata that name the run."""
_SUFFIX_BYTES = 3


@dataclass(frozen=True, slots=True)
class RunKey:
    """A run's session and its number there."""

    session_id: str
    index: int

    @property
    def run_id(self) -> str:
        """As clients derive it themselves."""
        return run_id_of(self.session_id, self.index)

    @classmethod
    def of(cls, run_id: str) -> RunKey | None:
        """None for a text that is no run's id."""
        found = parse_run_id(run_id)
        return cls(*found) if found else None


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run that a client asks for. `lora`: the shape and the start of its adapter."""

    key: RunKey
    lora: Mapping[str, Any] = field(default_factory=dict[str, Any])
    user_metadata: Mapping[str, Any] | None = None


async def get_run(session: AsyncSession, caller: Caller, run_id: str) -> ModelRow:
    """A run of the caller's team. Raises NotFound, or Forbidden where the caller's key is for other models."""
    key = RunKey.of(run_id) if is_storable(run_id) else None
    run = await _find(session, key) if key else None
    if run is None or run.team_id != caller.team_id:
        raise no_such_run(run_id)
    caller.require_model(run.id, run.slug)
    return run


def no_such_run(run_id: str) -> NotFound:
    """The refusal for a run that is not there, or not the team's."""
    return NotFound(f"there is no training run {run_id[:100]!r}", param="model_id")


async def create_run(session: AsyncSession, caller: Caller, base: str, new: NewRun) -> ModelRow:
    """A run on a base, from its weights; the one that is there where the client asks again.

    Raises NotFound for base or session, SessionFinished, QuotaExceeded, InvalidRequest, NumberReused.
    """
    known = await _asked_before(session, caller, new.key)
    found = await base_by_name(session, base)
    if known is not None:
        _require_same(known, found, new)
        return known
    await _require_shape(session, found, new.lora)
    run = await _insert(session, caller, found, found.id, new)
    record(session, actor_of(caller), "fork", team_id=caller.team_id, subject_id=run.id, source=found.slug)
    await session.flush()
    return run


async def create_run_from(
    session: AsyncSession,
    caller: Caller,
    source: ModelRow,
    checkpoint: CheckpointRow | None,
    new: NewRun,
    *,
    with_moments: bool,
) -> ModelRow:
    """A run that goes on from a checkpoint (None: the base weights), whose adapter has the shape of the source's.

    `source`: the model of the checkpoint, which the caller may load. `with_moments`: its optimizer state goes on, too.
    Raises as `create_run`, and InvalidRequest where the state was not kept.
    """
    if (known := await _asked_before(session, caller, new.key)) is not None:
        return known
    if with_moments and checkpoint is not None and checkpoint.state_removed_at is not None:
        raise InvalidRequest(
            f"the optimizer state of {checkpoint.name} was not kept; load it without, and it starts with fresh moments"
        )
    assert source.base_id is not None, "checkpoints are those of forks"
    shaped = NewRun(new.key, source.lora or {}, new.user_metadata)
    run = await _insert(session, caller, source, source.base_id, shaped)
    if checkpoint is not None:
        await take_over(session, run, checkpoint, with_moments=with_moments)
    detail = {"source": source.slug, "checkpoint": checkpoint.name if checkpoint else None}
    record(session, actor_of(caller), "fork", team_id=caller.team_id, subject_id=run.id, **detail)
    await session.flush()
    return run


def _require_same(known: ModelRow, base: ModelRow, new: NewRun) -> None:
    """Raises NumberReused where the run of this number is another one. (A seed may have been drawn twice.)"""
    shapes = [replace(LoraConfig(**lora), init_seed=0) for lora in (known.lora or {}, new.lora)]
    if known.base_id != base.id or shapes[0] != shapes[1]:
        raise NumberReused(
            f"{new.key.run_id} was made on another base or with another lora_config; count model_seq_id up for each run"
        )


async def _require_shape(session: AsyncSession, base: ModelRow, lora: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a part in which the base has weights that adapters leave out, if a trainer said so, and
    for a rank that no live sampler serves."""
    shape = LoraConfig(**lora)
    if (part := part_left_out(base, shape)) is not None:
        raise InvalidRequest(
            f"lora_config: adapters of {base.slug!r} leave weights of its {part} out (its experts are one "
            f"parameter together), so train_{part} must be false",
            param="lora_config",
        )
    await require_servable(session, base, shape, "lora_config")


async def _asked_before(session: AsyncSession, caller: Caller, key: RunKey) -> ModelRow | None:
    """The run of that number; the session is locked, so that two requests do not make one each."""
    caller.require_whole_team("make a training run")
    if not 0 <= key.index < _MOST_RUNS:
        raise InvalidRequest(f"model_seq_id is {key.index}; it must be 0 or more")
    owner = await get_open_session(session, caller.team_id, key.session_id)
    await session.refresh(owner, with_for_update=True)
    if owner.finished_at is not None:
        raise session_finished(key.session_id)
    return await _find(session, key)


async def _find(session: AsyncSession, key: RunKey) -> ModelRow | None:
    where = ModelRow.session_id == key.session_id, ModelRow.session_index == key.index, ModelRow.removed_at.is_(None)
    return await session.scalar(select(ModelRow).where(*where))


async def _insert(session: AsyncSession, caller: Caller, source: ModelRow, base_id: UUID, new: NewRun) -> ModelRow:
    await refuse_another_model(session, caller.team_id)
    wanted = await _free_name(session, caller.team_id, new)
    for name in (wanted, f"{wanted[:90]}-{secrets.token_hex(_SUFFIX_BYTES)}"):  # somebody may take it meanwhile
        row = insert(ModelRow).values(
            id=uuid.uuid4(),
            team_id=caller.team_id,
            slug=name,
            name=name,
            base_id=base_id,
            forked_from_id=source.id,
            lora=dict(new.lora),
            session_id=new.key.session_id,
            session_index=new.key.index,
            user_metadata=dict(new.user_metadata) if new.user_metadata else None,
            serves_head=False,
        )
        run = await session.scalar(row.on_conflict_do_nothing().returning(ModelRow))
        if run is not None:
            return run
    raise Conflict(f"the name {wanted!r} was taken meanwhile; ask again")


async def _free_name(session: AsyncSession, team_id: UUID, new: NewRun) -> str:
    """What the user calls it, as far as a slug may be so, or else its id; with a few more letters where it is taken."""
    named = (new.user_metadata or {}).get
    texts = [text for name in _NAMES if isinstance(text := named(name), str)]
    for text in (*texts, new.key.run_id):
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:90]
        if not is_free_name(name):
            continue
        if await repository.name_is_taken(session, team_id, name):
            return f"{name}-{secrets.token_hex(_SUFFIX_BYTES)}"
        return name
    return f"run-{secrets.token_hex(8)}"
