"""Which trainers and samplers live: registration, heartbeats, and what they can do."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, LiteralString
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, aliased

from store.database import Connection
from store.notify import TRAINERS_CHANGED, notify
from store.schema import newest_revision, refuse_contracted
from store.tables import SamplerRow, TrainerRow, TrainerStartRow
from wire.loaded import Loaded, version_of

_LIVE_FOR: LiteralString = "10"
LIVE_FOR_S = float(_LIVE_FOR)
"""A process that was silent for longer than this counts as gone."""


# The commit does not wait for the disk: a heartbeat that is lost is followed by another.
_SAMPLER_LIVES = """
    with beaten as (
        update samplers set heartbeat_at = clock_timestamp(), stopped_at = null, trouble = null where id = %(id)s
    )
    select set_config('synchronous_commit', 'off', true)
"""


def lives_sql(alias: LiteralString) -> LiteralString:
    """As `is_live`, of a row of trainers or samplers under this name."""
    return f"({alias}.stopped_at is null and {alias}.heartbeat_at > clock_timestamp() - interval '{_LIVE_FOR} s')"


def takes_requests_sql(alias: LiteralString) -> LiteralString:
    """As `takes_requests`; of a trainer: it takes work."""
    return f"({alias}.drained_at is null and {lives_sql(alias)})"


def is_live(row: type[TrainerRow] | type[SamplerRow]) -> ColumnElement[bool]:
    """SQL: this trainer or sampler has a recent heartbeat and is not marked as stopped."""
    silent_since = func.clock_timestamp() - timedelta(seconds=LIVE_FOR_S)
    return and_(row.stopped_at.is_(None), row.heartbeat_at > silent_since)


def takes_requests() -> ColumnElement[bool]:
    """SQL: this sampler lives and is not drained."""
    return and_(is_live(SamplerRow), SamplerRow.drained_at.is_(None))


def register_trainer(
    session: Session,
    base_id: UUID,
    losses: Mapping[str, Mapping[str, Any]],
    *,
    is_loading: bool = False,
    pid: int | None = None,
) -> UUID:
    """A new trainer process that says hello; `trainer_ready` follows one that is loading. pid: of the process that its
    supervisor knows, if that is another. Raises IncompatibleSchema."""
    refuse_contracted(session)
    row = TrainerRow(
        base_id=base_id,
        host=socket.gethostname(),
        pid=pid or os.getpid(),
        losses={name: dict(config) for name, config in losses.items()},
        is_loading=is_loading,
        details=_details(Loaded(version=version_of("headway"))),
    )
    session.add(row)
    session.flush()
    return row.id


def trainer_ready(
    session: Session, trainer_id: UUID, losses: Mapping[str, Mapping[str, Any]], loaded: Loaded | None = None
) -> None:
    """This trainer has loaded its base; whatever was noted about the search for one is settled."""
    row = session.get_one(TrainerRow, trainer_id)
    row.losses = {name: dict(config) for name, config in losses.items()}
    row.is_loading = False
    row.details = _details(loaded)
    session.execute(delete(TrainerStartRow).where(TrainerStartRow.base_id == row.base_id))
    notify(session, TRAINERS_CHANGED, row.base_id.hex)


def register_sampler(session: Session, base_id: UUID, url: str, backend: str, loaded: Loaded | None = None) -> UUID:
    """A new sampler process that says hello, and where the gateway reaches it. Raises IncompatibleSchema."""
    refuse_contracted(session)
    process = {"host": socket.gethostname(), "pid": os.getpid()}
    row = SamplerRow(base_id=base_id, url=url, backend=backend, details=_details(loaded), **process)
    session.add(row)
    session.flush()
    return row.id


def sampler_heartbeat(connection: Connection, sampler_id: UUID) -> None:
    """Say that this sampler lives, and is well."""
    connection.execute(_SAMPLER_LIVES, {"id": sampler_id})


def say_goodbye(session: Session, row: type[TrainerRow] | type[SamplerRow], row_id: UUID) -> None:
    """Say that this process ends, so that nobody waits for its heartbeat."""
    session.execute(update(row).where(row.id == row_id).values(stopped_at=func.clock_timestamp()))


def fall_silent(session: Session, sampler_id: UUID, trouble: str) -> None:
    """Count as gone until the next heartbeat: this sampler runs, and cannot do its work."""
    silent_since = func.least(SamplerRow.heartbeat_at, func.clock_timestamp() - timedelta(seconds=LIVE_FOR_S))
    values = {"heartbeat_at": silent_since, "trouble": _storable(trouble)}
    session.execute(update(SamplerRow).where(SamplerRow.id == sampler_id).values(values))


def give_up(session: Session, sampler_id: UUID, trouble: str | None) -> None:
    """Mark the sampler as stopped, with the reason if it has given up."""
    say_goodbye(session, SamplerRow, sampler_id)
    values = {"trouble": _storable(trouble) if trouble else None}
    session.execute(update(SamplerRow).where(SamplerRow.id == sampler_id).values(values))


def has_trouble() -> ColumnElement[bool]:
    """SQL: this sampler has a trouble, and is there or was the last one of its base."""
    later = aliased(SamplerRow)
    is_followed = exists().where(later.base_id == SamplerRow.base_id, later.started_at > SamplerRow.started_at)
    return and_(SamplerRow.trouble.is_not(None), or_(SamplerRow.stopped_at.is_(None), ~is_followed))


async def known_losses(session: AsyncSession, base_id: UUID) -> dict[str, dict[str, float | None]]:
    """Losses as the newest trainer of this base announced them, alive or not; empty if there never was one."""
    query = (
        select(TrainerRow.losses)
        .where(TrainerRow.base_id == base_id, TrainerRow.is_loading.is_(False))
        .order_by(TrainerRow.started_at.desc())
        .limit(1)
    )
    return (await session.scalar(query)) or {}


async def highest_lora_rank(session: AsyncSession, base_id: UUID) -> int | None:
    """The highest rank of an adapter that some live sampler of this base loads; None where one has no limit, or none
    lives."""
    samplers = select(SamplerRow.details).where(SamplerRow.base_id == base_id, takes_requests())
    limits = [Loaded.read(details).max_lora_rank for details in await session.scalars(samplers)]
    known = [limit for limit in limits if limit is not None]
    return max(known) if known and len(known) == len(limits) else None


def _details(loaded: Loaded | None) -> dict[str, Any]:
    return replace(loaded, schema=newest_revision()).to_json() if loaded else {}


def _storable(text: str) -> str:
    """A log may have anything in it; PostgreSQL keeps no NUL."""
    return text.replace("\x00", "\ufffd")
