"""What a path stands for, for a caller: a name of one of the team's runs that has not expired, a node of its tree, or a
name that another team published. Anything else is not found."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, false, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from server.catalog.run_ids import parse_run_id
from server.checkpoint_names.paths import SEGMENTS, Kind, TinkerPath
from server.checkpoint_names.types import NamedCheckpoint, named_by_row
from server.principals.callers import Caller
from server.values.removed_files import sentence_of_removal
from server.values.sanitizing import is_storable
from store.checkpoint_references import as_uuid
from store.tables import CheckpointNameRow, CheckpointRow, ModelRow
from wire.errors import Gone, InvalidRequest, NotFound

Use: TypeAlias = Literal["training", "sampling", "copying", "reading"]
"""What a path is asked for. `reading`: to download it or to look at it."""

BaseRow = aliased(ModelRow, name="base")

_MOST_SHOWN = 300
_USABLE: dict[Use, tuple[Kind, ...]] = {
    "training": ("training",),
    "sampling": ("sampler",),
    "copying": ("training", "sampler"),
    "reading": get_args(Kind),
}
_ALLOWED: dict[Use, str] = {
    "training": "only a path with weights/ can be loaded for training; save_state makes one",
    "sampling": "only a path with sampler_weights/ can be sampled; save_weights_for_sampler makes one",
    "copying": "only weights/ and sampler_weights/ can be copied",
}


def is_live() -> ColumnElement[bool]:
    """SQL: a name that has not expired."""
    return or_(CheckpointNameRow.expires_at.is_(None), CheckpointNameRow.expires_at > func.clock_timestamp())


async def resolve_path(session: AsyncSession, caller: Caller, text: str, use: Use) -> NamedCheckpoint:
    """The checkpoint of a path.

    Raises InvalidRequest for what is no path, or is not for this use; NotFound; Forbidden where the caller's key is for
    other models; Gone where retention has removed the files of a node.
    """
    path = TinkerPath.parse(text)
    if path.kind not in _USABLE[use]:
        raise InvalidRequest(f"{text!r} cannot be used so: {_ALLOWED[use]}")
    found = await _find_name(session, caller.team_id, path) or await _find_node(session, caller.team_id, path)
    if found is None:
        raise no_such_checkpoint(text)
    caller.require_model(found.model.id, found.model.slug)
    if found.checkpoint.files_removed_at is not None:
        raise Gone(sentence_of_removal(text, "names keep them"))
    return found


async def find_run(session: AsyncSession, caller: Caller, run: str) -> tuple[ModelRow, ModelRow]:
    """A model of the team by its run id, its own id or its slug, and its base. Raises NotFound, Forbidden."""
    own = _run_is(caller.team_id, run), ModelRow.team_id == caller.team_id, ModelRow.removed_at.is_(None)
    query = select(ModelRow, BaseRow).join(BaseRow, BaseRow.id == ModelRow.base_id).where(*own)
    row = (await session.execute(query)).first()
    if row is None:
        raise no_such_run(run)
    caller.require_model(row[0].id, row[0].slug)
    return row[0], row[1]


async def get_own_name(session: AsyncSession, caller: Caller, run: str, checkpoint_id: str) -> NamedCheckpoint:
    """A name of the team's, locked, to change it. Raises NotFound, Forbidden, InvalidRequest for a node's own name."""
    path = TinkerPath.of(run, checkpoint_id)
    own = ModelRow.team_id == caller.team_id
    query = _names(caller.team_id, path).where(own).with_for_update(of=CheckpointNameRow)
    row = (await session.execute(query)).first()
    if row is None:
        await _refuse_node(session, caller.team_id, path)
        raise no_such_checkpoint(str(path))
    caller.require_model(row[2].id, row[2].slug)
    return named_by_row(row[2], row[3], row[1], row[0])


def no_such_checkpoint(path: str) -> NotFound:
    """The refusal of a path that stands for nothing, has expired, or is another team's."""
    return NotFound(f"there is no checkpoint {path[:_MOST_SHOWN]}")


def no_such_run(run: str) -> NotFound:
    """The refusal of a run that is not there, or another team's."""
    return NotFound(f"there is no training run {run[:_MOST_SHOWN]!r}")


async def _find_name(session: AsyncSession, team_id: UUID, path: TinkerPath) -> NamedCheckpoint | None:
    is_allowed = or_(ModelRow.team_id == team_id, CheckpointNameRow.published_at.is_not(None))
    row = (await session.execute(_names(team_id, path).where(is_allowed))).first()
    return named_by_row(row[2], row[3], row[1], row[0]) if row else None


async def _find_node(session: AsyncSession, team_id: UUID, path: TinkerPath) -> NamedCheckpoint | None:
    query = (
        select(CheckpointRow, ModelRow, BaseRow)
        .join(ModelRow, ModelRow.id == CheckpointRow.model_id)
        .join(BaseRow, BaseRow.id == ModelRow.base_id)
        .where(
            _run_is(team_id, path.run),
            ModelRow.team_id == team_id,
            ModelRow.removed_at.is_(None),
            CheckpointRow.name == path.name,
            CheckpointRow.status == "committed",
        )
    )
    row = (await session.execute(query)).first()
    return NamedCheckpoint(row[1], row[2], row[0], path.kind, path.name, None) if row else None


async def _refuse_node(session: AsyncSession, team_id: UUID, path: TinkerPath) -> None:
    if await _find_node(session, team_id, path) is not None:
        raise InvalidRequest(
            f"{path} is a node of the model's tree, which the retention policy keeps or removes; copy it to a name "
            f"({SEGMENTS[path.kind]}/NAME) to publish it or to give it an end"
        )


def _names(team_id: UUID, path: TinkerPath) -> Select[CheckpointNameRow, CheckpointRow, ModelRow, ModelRow]:
    return (
        select(CheckpointNameRow, CheckpointRow, ModelRow, BaseRow)
        .join(CheckpointRow, CheckpointRow.id == CheckpointNameRow.checkpoint_id)
        .join(ModelRow, ModelRow.id == CheckpointNameRow.model_id)
        .join(BaseRow, BaseRow.id == ModelRow.base_id)
        .where(
            _run_is(team_id, path.run),
            ModelRow.removed_at.is_(None),
            CheckpointNameRow.kind == path.kind,
            CheckpointNameRow.name == path.name,
            is_live(),
        )
    )


def _run_is(team_id: UUID, run: str) -> ColumnElement[bool]:
    """SQL: the model is this run. Slugs are names within a team."""
    if not is_storable(run):
        return false()
    if (found := parse_run_id(run)) is not None:
        return and_(ModelRow.session_id == found[0], ModelRow.session_index == found[1])
    if (model_id := as_uuid(run)) is not None:
        return ModelRow.id == model_id
    return and_(ModelRow.team_id == team_id, func.lower(ModelRow.slug) == run.lower())
