"""Forks: a team's trainable model that starts where its source's head is."""

from __future__ import annotations

import re
import uuid
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of, record
from server.auth.service import Caller
from server.catalog import repository
from server.catalog.heads import Heads, have_files
from server.catalog.lora import choose_lora
from server.catalog.service import no_such_model
from server.catalog.types import ForkRequest
from server.principals.quotas import refuse_another_model
from store.tables import CheckpointRow, ModelRow
from wire.errors import Conflict, Forbidden, InvalidRequest, Unavailable
from wire.lora import LoraConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_AGENT_TYPES = {"openai", "openai_compatible", "claude", "claude_cli", "codex_cli", "gemini", "operator", "anthropic"}


async def save_source(heads: Heads, caller: Caller, request: ForkRequest) -> None:
    """Have files written of the node from which this fork starts, should it have none. Raises Unavailable."""
    async with heads.database.session() as session:
        found = await repository.find_model(session, caller.team_id, request.source_model_id)
    if found is not None and found[2] is not None and not found[2].is_saved:
        caller.require_whole_team("fork")
        await have_files(heads, found[2])


async def fork(session: AsyncSession, caller: Caller, request: ForkRequest, default_lora: LoraConfig) -> ModelRow:
    """Make the fork. Raises NotFound for the source, Forbidden for another vendor's model, InvalidRequest or
    Conflict for the name or the adapter's shape, QuotaFull."""
    caller.require_whole_team("fork")
    found = await repository.find_model(session, caller.team_id, request.source_model_id)
    if found is None:
        raise no_such_model(request.source_model_id)
    source, base, head = found
    if source.upstream is not None:
        raise Forbidden(f"{source.slug!r} is another vendor's model, which is sampled here and cannot be forked")
    check_name(request.name)
    if await repository.name_is_taken(session, caller.team_id, request.name):
        raise name_taken(request.name)
    await refuse_another_model(session, caller.team_id)
    lora = await choose_lora(session, source, base or source, head, default_lora, request.lora)
    model = await _insert_model(session, caller, source, request.name, lora)
    if head is not None:
        await take_over(session, model, head)
    detail = {"source": source.slug, "checkpoint": head.name if head else None}
    record(session, actor_of(caller), "fork", team_id=caller.team_id, subject_id=model.id, **detail)
    await session.flush()
    return model


async def take_back(session: AsyncSession, caller: Caller, model_id: uuid.UUID) -> None:
    """A fork on which nothing was done was never there; its name is free again."""
    model = await session.get_one(ModelRow, model_id, with_for_update=True)
    record(session, actor_of(caller), "take_back_fork", team_id=caller.team_id, subject_id=model.id, name=model.slug)
    model.head_checkpoint_id, model.head_version = None, model.head_version + 1
    model.slug = model.name = str(model.id)
    model.removed_at = (await session.scalars(select(func.clock_timestamp()))).one()
    await session.flush()


def is_free_name(name: str) -> bool:
    """Whether a model may have this name, if no other has it."""
    try:
        check_name(name)
    except InvalidRequest:
        return False
    return True


def check_name(name: str) -> None:
    """Raises InvalidRequest for what is no name for a model."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            "a model's name is 1 to 100 letters, digits, dots, dashes or underscores, beginning with a letter or digit"
        )
    if repository.as_uuid(name) is not None:
        raise InvalidRequest(f"{name!r} reads as a model id; choose another name")
    if name.lower() in _AGENT_TYPES:
        raise InvalidRequest(f"{name!r} is the name of an agent type in the SDK; choose another")


def name_taken(name: str) -> Conflict:
    """The refusal of a name that another model has."""
    return Conflict(f"the name {name!r} is taken; choose another, or use that model")


async def _insert_model(
    session: AsyncSession, caller: Caller, source: ModelRow, name: str, lora: dict[str, Any]
) -> ModelRow:
    row = insert(ModelRow).values(
        id=uuid.uuid4(),
        team_id=caller.team_id,
        slug=name,
        name=name,
        base_id=source.base_id or source.id,
        forked_from_id=source.id,
        lora=lora,
    )
    # Two racing forks: the unique index lets one through.
    model = await session.scalar(row.on_conflict_do_nothing().returning(ModelRow))
    if model is None:
        raise name_taken(name)
    return model


async def take_over(session: AsyncSession, model: ModelRow, head: CheckpointRow, *, with_moments: bool = True) -> None:
    """A root that references the source's files, optimizer state included if it was kept: nothing is copied.

    with_moments: False for one that starts with fresh moments all the same. Raises Conflict where the files are gone.
    """
    # Held until the root is there, so that retention either sees the root or has marked the node before.
    await session.refresh(head, with_for_update={"read": True})
    if head.files_removed_at is not None:
        raise Conflict("the source's head moved meanwhile, and its old files were removed; fork again")
    if not head.is_saved:
        raise Unavailable(f"{head.name} has no files yet; try again in a few seconds", retry_after_s=5)
    root_id = uuid.uuid4()
    root = CheckpointRow(
        id=root_id,
        model_id=model.id,
        parent_id=None,
        files_id=head.files_id,
        files_model_id=head.files_model_id,
        step=0,
        name=f"0000-{root_id.hex[:8]}",
        status="committed",
        manifest=head.manifest,
        metrics={},
        committed_at=func.clock_timestamp(),
        state_removed_at=head.state_removed_at if with_moments else func.clock_timestamp(),
    )
    session.add(root)
    await session.flush()
    model.head_checkpoint_id = root_id
    await session.flush()
