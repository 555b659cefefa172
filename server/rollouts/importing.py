"""Imports: lines are read while the body streams in, and recorded one by one. A bad line does not stop the others."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert

from server.audit.lines import GrowingLine
from server.audit.recording import actor_of
from server.catalog.repository import find_model
from server.pictures.collaborators import Pictures
from server.pictures.reading import find
from server.pictures.taking import no_such_picture
from server.principals.callers import Caller
from server.process.settings import Limits
from server.rollouts.imported_lines import Line, read_line
from server.rollouts.transfer_types import ImportResult, RefusedLine
from server.rollouts.visibility import require_job, require_trace
from server.uploads.storing import stored_or_refused
from server.uploads.upload_parser import UploadParser
from server.values.sanitizing import storable_text
from store.blob_stores import BlobStore
from store.database import AsyncConnection, AsyncDatabase
from store.rollouts import NewTrace, Outcome, import_trace
from store.tables import JobRow
from wire.errors import HeadwayError, InvalidRequest, TooLarge

_MOST_REFUSALS = 1000
"""Told one by one; the rest are only counted."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """`job`: the name of the job that rollouts are put under. `rescore`: rewards on record may be replaced."""

    job: str | None = None
    rescore: bool = False


async def take_lines(
    database: AsyncDatabase,
    blobs: BlobStore,
    parser: UploadParser,
    pictures: Pictures,
    limits: Limits,
    caller: Caller,
    chunks: AsyncIterator[bytes],
    options: ImportOptions,
) -> ImportResult:
    """Record what the lines hold; what became of them. `chunks`: the lines as they come in, cut anywhere.

    Raises TooLarge for a longer body than the server takes: the lines before that are recorded then, and importing them
    again changes nothing.
    """
    importing = _Import(database, blobs, pictures, caller, options)
    await importing.begin()
    number = 0
    async for data in _lines(chunks, limits):
        number += 1
        trace_id = None
        try:
            if data is None:
                raise TooLarge(f"the line is longer than {limits.body_bytes} bytes")
            if data.strip():
                line = await parser.read(data, read_line, limits.batch_tokens)
                trace_id = line.trace_id
                await importing.record(line)
        except HeadwayError as error:
            if error.status >= 500:
                raise
            importing.refuse(number, trace_id, error.message)
    return importing.result


class _Import:
    """One request's lines."""

    def __init__(
        self, database: AsyncDatabase, blobs: BlobStore, pictures: Pictures, caller: Caller, options: ImportOptions
    ) -> None:
        self.result = ImportResult()
        self._database = database
        self._blobs = blobs
        self._pictures = pictures
        self._caller = caller
        self._options = options
        self._job_id: UUID | None = None
        self._audited: GrowingLine | None = None
        self._models = dict[str, UUID | None]()
        self._open_jobs = set[UUID]()

    async def begin(self) -> None:
        """Make the job. The same name means the same job, so that an import can be repeated.

        Raises Forbidden where the key is for some models, and the job has rollouts of others.
        """
        if self._options.job is None:
            return
        name = storable_text(self._options.job)
        self._job_id = uuid.uuid5(self._caller.team_id, f"import {name}")
        await require_job(self._database, self._caller, self._job_id, reports=True)
        self.result.job_id = str(self._job_id)
        async with self._database.session() as session:
            row = insert(JobRow).values(team_id=self._caller.team_id, id=self._job_id, name=name)
            await session.execute(row.on_conflict_do_nothing())

    async def record(self, line: Line) -> None:
        """Record a line's rollout. Raises Forbidden, or what is wrong with it."""
        trace: NewTrace = line.as_trace(self._caller.team_id, self._job_id, await self._model(line.model))
        await self._require(trace)
        await self._require_pictures(line)
        with stored_or_refused("rollout"):
            outcome = await import_trace(
                self._database, self._blobs, trace, self._on_change, rescore=self._options.rescore
            )
        setattr(self.result, outcome, getattr(self.result, outcome) + 1)

    async def _require(self, trace: NewTrace) -> None:
        """Raises Forbidden where the key is for some models, and the rollout would be of others: by its turns, by what
        is on record under its id, or by its job."""
        if self._caller.model_ids is None:
            return
        for one in trace.turns:
            if one.served is not None and one.served.model_id is not None:
                self._caller.require_model(one.served.model_id, str(one.served.model_id))
        await require_trace(self._database, self._caller, trace.id, reports=True)
        if trace.job_id is not None and trace.job_id != self._job_id and trace.job_id not in self._open_jobs:
            await require_job(self._database, self._caller, trace.job_id, reports=True)
            self._open_jobs.add(trace.job_id)

    async def _require_pictures(self, line: Line) -> None:
        """Raises NotFound for a picture that the team has not sent, InvalidRequest for one of another size."""
        named = list(line.media())
        known = await find(self._pictures, self._caller.team_id, {item.name for _, item in named}) if named else {}
        for where, item in named:
            if item.name not in known:
                raise no_such_picture(where, item.name)
            size = known[item.name].width, known[item.name].height
            if size != (item.width, item.height):
                raise InvalidRequest(f"{where} says {item.width}×{item.height} pixels, and it has {size[0]}×{size[1]}")

    async def _on_change(self, connection: AsyncConnection, outcome: Outcome) -> None:
        """The audit log has one line of an import, which every rollout brings up to date."""
        if self._audited is None:
            actor, team_id = actor_of(self._caller), self._caller.team_id
            self._audited = GrowingLine(actor, "import_traces", team_id=team_id, subject_id=self._job_id)
        done = {"imported": self.result.imported, "rescored": self.result.rescored}
        await self._audited.write(connection, **{**done, outcome: done[outcome] + 1})

    async def _model(self, name: str | None) -> UUID | None:
        """What a model's name means here; training checks by it that the base is the same. Raises Forbidden for a model
        that the key does not open."""
        if name is None:
            return None
        if name not in self._models:
            async with self._database.session() as session:
                found = await find_model(session, self._caller.team_id, name)
            if found:
                self._caller.require_model(found[0].id, found[0].slug)
            self._models[name] = found[0].id if found else None
        return self._models[name]

    def refuse(self, number: int, trace_id: UUID | None, detail: str) -> None:
        """Note why a line is not recorded."""
        self.result.num_refused += 1
        if len(self.result.refused) < _MOST_REFUSALS:
            shown = str(trace_id) if trace_id else None
            self.result.refused.append(RefusedLine(line=number, trace_id=shown, detail=detail))


async def _lines(chunks: AsyncIterator[bytes], limits: Limits) -> AsyncGenerator[bytes | None]:
    """Lines as they come in; None in the place of one that is longer than a request may be."""
    waiting, received, is_dropping = bytearray(), 0, False
    async for chunk in chunks:
        received += len(chunk)
        if received > limits.training_body_bytes:
            raise TooLarge(
                f"the import is larger than {limits.training_body_bytes} bytes, the most this server takes at once; "
                "send it in smaller parts (what was recorded already is not recorded twice)"
            )
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            too_long = is_dropping or len(waiting) + len(piece) > limits.body_bytes
            yield None if too_long else bytes(waiting + piece)
            waiting.clear()
            is_dropping = False
        is_dropping = is_dropping or len(waiting) + len(rest) > limits.body_bytes
        if is_dropping:
            waiting.clear()
        else:
            waiting += rest
    if waiting or is_dropping:
        yield None if is_dropping else bytes(waiting)
