"""Adapters that were made elsewhere, as models: the root of the tree has the adapter's files, and no optimizer state.

A sampler of the base loads the adapter before the upload is answered; what it refuses is no model.
"""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO
from uuid import UUID

from sqlalchemy import delete, exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of, record
from server.catalog import repository
from server.catalog.bases import base_by_name
from server.catalog.forks import is_free_name
from server.catalog.heads import Heads, load_adapter
from server.checkpoint_names.changing import expiry
from server.checkpoint_names.lifetimes import check_ttl
from server.checkpoint_names.paths import Kind, check_name, path_of
from server.checkpoint_names.uploaded_files import UploadedShape, unpack_adapter
from server.principals.callers import Caller
from server.principals.quotas import refuse_another_model, refuse_more_files
from store.checkpoint_stores import CheckpointStore, Manifest
from store.planes.registration import takes_requests
from store.tables import CheckpointNameRow, CheckpointRow, ModelRow, SamplerRow
from wire.errors import Conflict, InvalidRequest, PromotionRejected, Unavailable

_KINDS: tuple[Kind, ...] = ("training", "sampler")


@dataclass(frozen=True, slots=True)
class Upload:
    """Of which base the adapter is, what the model and its checkpoint shall be called, and for how long."""

    base: str
    slug: str
    name: str
    ttl_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class _Root:
    model_id: UUID
    checkpoint_id: UUID
    manifest: Manifest
    shape: UploadedShape


async def upload_adapter(
    heads: Heads,
    asked: Callable[[UUID], None],
    store: CheckpointStore,
    caller: Caller,
    upload: Upload,
    archive: BinaryIO,
) -> str:
    """Make the model, and return the path of its root. `archive`: a tar of the adapter's files in PEFT's layout.
    `asked`: notes that a sampler of the base is needed.

    Raises InvalidRequest for what is no such archive or does not fit the base, NotFound for the base, Conflict for the
    slug, QuotaFull, Unavailable while no sampler of the base serves.
    """
    caller.require_whole_team("upload an adapter")
    check_name(upload.name)
    if upload.ttl_seconds is not None:
        check_ttl(upload.ttl_seconds)
    async with heads.database.session() as session:
        base = await base_by_name(session, upload.base)
        asked(base.id)
        await _check(session, caller, base, upload)
    root = await asyncio.to_thread(_publish, store, archive)
    try:
        async with heads.database.session() as session:
            await _check(session, caller, base, upload)
            path = await _insert(session, caller, base, upload, root)
    except BaseException:
        await asyncio.to_thread(store.remove, root.model_id, root.checkpoint_id)
        raise
    try:
        async with heads.database.session() as session:
            checkpoint = await session.get_one(CheckpointRow, root.checkpoint_id)
        await load_adapter(heads, base.id, checkpoint)
    except PromotionRejected as refused:
        await _take_back(heads, root)
        raise InvalidRequest(f"the adapter does not fit {base.slug!r}: {refused.message}") from None
    except BaseException:
        await _take_back(heads, root)
        raise
    return path


async def _check(session: AsyncSession, caller: Caller, base: ModelRow, upload: Upload) -> None:
    await refuse_another_model(session, caller.team_id)
    await refuse_more_files(session, caller.team_id)
    if not is_free_name(upload.slug):
        raise InvalidRequest(f"{upload.slug[:200]!r} is no name for a model", param="slug")
    if await repository.name_is_taken(session, caller.team_id, upload.slug):
        raise Conflict(f"the name {upload.slug!r} is taken; choose another")
    serves = exists().where(SamplerRow.base_id == base.id, takes_requests())
    if not await session.scalar(select(serves)):
        raise Unavailable(f"no sampler of {base.slug!r} serves, which would check the adapter; try again")


def _publish(store: CheckpointStore, archive: BinaryIO) -> _Root:
    model_id, checkpoint_id = uuid.uuid4(), uuid.uuid4()
    with store.stage(model_id, checkpoint_id) as staged:
        shape = unpack_adapter(archive, staged / "adapter")
        manifest = store.publish(model_id, checkpoint_id, staged)
    store.settle(model_id, checkpoint_id)
    return _Root(model_id, checkpoint_id, manifest, shape)


async def _insert(session: AsyncSession, caller: Caller, base: ModelRow, upload: Upload, root: _Root) -> str:
    model = ModelRow(
        id=root.model_id,
        team_id=caller.team_id,
        slug=upload.slug,
        name=upload.slug,
        base_id=base.id,
        forked_from_id=base.id,
        lora={**dataclasses.asdict(root.shape), "init_seed": 0},
        head_version=1,
    )
    session.add(model)
    await session.flush()
    now = func.clock_timestamp()
    session.add(
        CheckpointRow(
            id=root.checkpoint_id,
            model_id=root.model_id,
            files_id=root.checkpoint_id,
            files_model_id=root.model_id,
            step=0,
            name=f"0000-{root.checkpoint_id.hex[:8]}",
            status="committed",
            manifest=root.manifest.to_json(),
            metrics={},
            committed_at=now,
            state_removed_at=now,
        )
    )
    await session.flush()
    model.head_checkpoint_id = root.checkpoint_id
    about = {"model_id": model.id, "checkpoint_id": root.checkpoint_id, "name": upload.name}
    size_bytes, expires_at = sum(s for s, _ in root.manifest.files.values()), await expiry(session, upload.ttl_seconds)
    for kind in _KINDS:
        session.add(CheckpointNameRow(kind=kind, size_bytes=size_bytes, expires_at=expires_at, **about))
    record(session, actor_of(caller), "upload_adapter", team_id=caller.team_id, subject_id=model.id, base=base.slug)
    await session.flush()
    return path_of(model, "training", upload.name)


async def _take_back(heads: Heads, root: _Root) -> None:
    """The model was never there; retention removes the files."""
    async with heads.database.session() as session:
        model = await session.get_one(ModelRow, root.model_id, with_for_update=True)
        model.head_checkpoint_id, model.head_version = None, model.head_version + 1
        model.slug = model.name = str(model.id)
        model.removed_at = (await session.scalars(select(func.clock_timestamp()))).one()
        await session.execute(delete(CheckpointNameRow).where(CheckpointNameRow.model_id == model.id))
        checkpoint = await session.get_one(CheckpointRow, root.checkpoint_id)
        checkpoint.status = "rejected"
