"""What a command is given to name a thing: its id, its name, or the beginning of an id that no other thing has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Text, cast, select
from sqlalchemy.ext.asyncio import AsyncSession

from cli.matching import MOST_SHOWN, only_of
from store.tables import CheckpointRow, ModelRow, TeamRow
from wire.errors import NotFound
from wire.ids import as_uuid


async def find_id(
    session: AsyncSession,
    row: Any,
    reference: str,
    *,
    kind: str,
    see: str,
    name: ColumnElement[str],
    where: Sequence[ColumnElement[bool]] = (),
) -> UUID:
    """The id of a row of a table. `name`: what it is called, which need not be its own; `see`: the command that lists
    these things. Raises NotFound, and Conflict that names those that are meant as much."""
    given = as_uuid(reference)
    exact = row.id == given if given is not None else name == reference
    begun = cast(row.id, Text).startswith(reference.lower(), autoescape=True)
    for condition in (exact, begun) if reference.strip() else ():
        query = select(row.id, name).where(condition, *where).order_by(name, row.id).limit(MOST_SHOWN + 1)
        if found := [(found_id, called) for found_id, called in await session.execute(query)]:
            return only_of(found, reference, kind)
    raise NotFound(f"there is no {kind} {reference!r}; see '{see}'")


async def find_model(session: AsyncSession, reference: str, *, trainable: bool = False) -> UUID:
    """A model by id, name, TEAM/NAME, or the beginning of its id. Raises NotFound, Conflict. trainable: not a base."""
    team, _, slug = reference.rpartition("/")
    listed = [ModelRow.removed_at.is_(None), *([ModelRow.base_id.is_not(None)] if trainable else [])]
    query = select(ModelRow.id, TeamRow.name).outerjoin(TeamRow, TeamRow.id == ModelRow.team_id)
    query = query.where(ModelRow.slug == slug, *listed, *([TeamRow.name == team] if team else []))
    found = [(model_id, f"{of}/{slug}" if of else slug) for model_id, of in await session.execute(query)]
    if found:
        return only_of(found, reference, "model")
    kind = "trainable model" if trainable else "model"
    return await find_id(
        session, ModelRow, reference, kind=kind, see="headway status", name=_column(ModelRow.slug), where=listed
    )


async def find_team(session: AsyncSession, reference: str) -> UUID:
    """A team. Raises NotFound, Conflict."""
    here = [TeamRow.removed_at.is_(None)]
    name = _column(TeamRow.name)
    return await find_id(session, TeamRow, reference, kind="team", see="headway team list", name=name, where=here)


async def find_checkpoint(session: AsyncSession, model_id: UUID, reference: str) -> str:
    """A checkpoint of a model by the beginning of its id; anything else is returned as it came."""
    begun = cast(CheckpointRow.id, Text).startswith(reference.lower(), autoescape=True)
    query = select(CheckpointRow.id, CheckpointRow.name).where(CheckpointRow.model_id == model_id, begun)
    found = [(found_id, name) for found_id, name in await session.execute(query.limit(MOST_SHOWN + 1))]
    return str(only_of(found, reference, "checkpoint")) if found and reference != "head" else reference


def _column(column: Any) -> ColumnElement[str]:
    return column
