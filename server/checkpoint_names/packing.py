"""An adapter as people take it home: PEFT's two files and a README, as one archive.

In the configuration `base_model_name_or_path` is the base's id at the hub, or else the name it was registered by: where
its weights are on this service's machines means nothing elsewhere. All else is as the trainer wrote it.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog import repository, service
from server.catalog.bases import public_name, untrained
from server.catalog.heads import Heads, have_files
from server.checkpoint_names.adapter_files import ADAPTER_FILES, AdapterFiles, OpenFile
from server.checkpoint_names.model_card import Card
from server.checkpoint_names.tar_archives import TarArchive
from server.principals.callers import Caller
from store.tables import CheckpointRow, EvalRow, ModelRow
from wire.errors import Conflict, CorruptCheckpoint, Gone

_CONFIG, _WEIGHTS = ADAPTER_FILES
_README = "README.md"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class PackedAdapter:
    """`etag`: of these bytes. `file_name`: of letters that any file system takes. `weights_sha256`: None: not known."""

    archive: TarArchive
    etag: str
    file_name: str
    weights_sha256: str | None


@dataclass(frozen=True, slots=True)
class _Found:
    model: ModelRow
    base: ModelRow
    checkpoint: CheckpointRow
    scores: list[EvalRow]


async def pack_adapter(heads: Heads, files: AdapterFiles, caller: Caller, model: str, checkpoint: str) -> PackedAdapter:
    """The adapter of a checkpoint, by its id, its name or `head`. A trainer writes files that are not there yet.

    Raises NotFound, Forbidden, Conflict where there is no adapter, Gone where retention removed it, CorruptCheckpoint,
    Unavailable.
    """
    async with heads.database.session() as session:
        found = await _find(session, caller, model, checkpoint)
    if not found.checkpoint.is_saved:
        await have_files(heads, found.checkpoint)
        async with heads.database.session() as session:
            found = await _find(session, caller, model, str(found.checkpoint.id))
    opened = await files.open(found.checkpoint, ADAPTER_FILES)
    try:
        return await asyncio.to_thread(_pack, found, opened)
    except BaseException:
        for file in opened:
            file.content.close()
        raise


async def _find(session: AsyncSession, caller: Caller, reference: str, checkpoint_reference: str) -> _Found:
    found = await repository.find_model(session, caller.team_id, reference)
    if found is None:
        raise service.no_such_model(reference)
    model, base, _ = found
    caller.require_model(model.id, model.slug)
    if base is None:
        raise Conflict(f"{model.slug!r} is {untrained(model)}, which has no adapter; name a model that was forked")
    checkpoint = await service.get_node(session, model, checkpoint_reference)
    if checkpoint.files_removed_at is not None:
        raise Gone(f"the files of {checkpoint.name} were removed; choose a checkpoint that has files")
    query = select(EvalRow).where(EvalRow.model_id == model.id, EvalRow.checkpoint_id == checkpoint.id)
    scores = list(await session.scalars(query.order_by(EvalRow.benchmark, EvalRow.created_at, EvalRow.id)))
    return _Found(model, base, checkpoint, scores)


def _pack(found: _Found, opened: list[OpenFile]) -> PackedAdapter:
    by_name = {file.name: file for file in opened}
    weights = by_name[_WEIGHTS]
    config = _config(by_name[_CONFIG], found.base)
    card = Card(found.model, found.base, found.checkpoint, found.scores, weights.sha256).text().encode()
    etag = hashlib.sha256(b"\0".join((config, card, (weights.sha256 or "").encode()))).hexdigest()
    name = _NOT_IN_NAMES.sub("-", f"{found.model.slug}-{found.checkpoint.name}").lstrip(".-")
    archive = TarArchive([_in_memory(_CONFIG, config), weights, _in_memory(_README, card)])
    return PackedAdapter(archive, f'"{etag[:32]}"', f"{name}.tar", weights.sha256)


def _config(file: OpenFile, base: ModelRow) -> bytes:
    with file.content:
        try:
            config: dict[str, Any] = json.loads(file.content.read())
        except ValueError:
            raise CorruptCheckpoint(f"{_CONFIG} is not JSON") from None
    config["base_model_name_or_path"] = public_name(base)
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


def _in_memory(name: str, content: bytes) -> OpenFile:
    return OpenFile(name, len(content), io.BytesIO(content))
