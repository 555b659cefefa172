"""What a text means where a checkpoint is asked for: the sampler path that `optim_step` returned, an id, a name, or
`slug/name`, in this order. Whatever takes a checkpoint from a client resolves it here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from uuid import UUID

from sqlalchemy import Select, select, text
from sqlalchemy.orm import aliased

from store.checkpoint_stores.base import ADAPTER, part_path
from store.tables import CheckpointRow, ModelRow
from wire.ids import as_uuid

_PATH = re.compile(r"checkpoints/([0-9a-f]{32})/([0-9a-f]{32})/" + ADAPTER)


@dataclass(frozen=True, slots=True)
class CheckpointReference:
    """What a text may mean, one of which a model's tree may have. All None: nothing."""

    path_model_id: UUID | None = None
    path_checkpoint_id: UUID | None = None
    checkpoint_id: UUID | None = None
    checkpoint_name: str | None = None
    before_name: str | None = None
    name_behind: str | None = None

    @classmethod
    def of(cls, reference: str) -> CheckpointReference:
        """Every reading of a text that PostgreSQL can hold."""
        path = _PATH.fullmatch(reference)
        slug, _, name = reference.rpartition("/")
        return cls(
            path_model_id=UUID(path[1]) if path else None,
            path_checkpoint_id=UUID(path[2]) if path else None,
            checkpoint_id=as_uuid(reference),
            checkpoint_name=reference,
            before_name=slug.lower() or None,
            name_behind=name if slug else None,
        )


def sampler_path(files_model_id: UUID, files_id: UUID) -> str:
    """The path of a checkpoint's adapter, as clients get it."""
    return part_path(files_model_id, files_id, ADAPTER)


def referred_sql(parameter: Callable[[str], str]) -> str:
    """SQL: the id of the committed checkpoint of model `m` that a CheckpointReference means; null: none. `parameter`
    writes the placeholder of one of its fields."""
    p = parameter
    files = ("files_model_id", "path_model_id"), ("files_id", "path_checkpoint_id")
    readings = (
        " and ".join(f"x.{column} = cast({p(field)} as uuid)" for column, field in files),
        f"x.id = cast({p('checkpoint_id')} as uuid)",
        f"x.name = cast({p('checkpoint_name')} as text)",
        f"x.name = cast({p('name_behind')} as text) and lower(m.slug) = cast({p('before_name')} as text)",
    )
    found = (
        f"(select x.id from checkpoints x where x.model_id = m.id and x.status = 'committed' and {reading} limit 1)"  # noqa: S608
        for reading in readings  # put together from constants
    )
    return f"coalesce({', '.join(found)})"


def referred_to(model_id: UUID, reference: CheckpointReference) -> Select[CheckpointRow]:
    """The model's committed checkpoint that is meant."""
    model = aliased(ModelRow, name="m")
    referred = text(referred_sql(lambda name: f":{name}")).bindparams(**asdict(reference))
    return (
        select(CheckpointRow)
        .join(model, model.id == CheckpointRow.model_id)
        .where(model.id == model_id, CheckpointRow.id == referred)
    )
