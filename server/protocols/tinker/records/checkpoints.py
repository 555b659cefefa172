"""Checkpoints by their paths: listed, published, given an end, deleted. Runs' ids have colons, which URLs keep as they
are; the part behind `/checkpoints/` has a slash."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header
from pydantic import Field

from server.catalog.runs import RunKey
from server.checkpoint_names import changing, listing
from server.checkpoint_names.copying import CopyRequest, copy_checkpoint
from server.checkpoint_names.path_files import have_path_files
from server.http.authentication import CallerDep, KeyAccess
from server.http.context import ContextDep
from server.principals.callers import Caller
from server.protocols.tinker.records.schemas import Checkpoint, Cursor, LimitParam, OffsetParam
from server.protocols.tinker.shared.routing import TinkerRouter
from server.protocols.tinker.shared.schemas import Label, Metadata, TinkerReply, TinkerRequest
from wire.errors import InvalidRequest

router = TinkerRouter()

_CHECKPOINT = "/training_runs/{run}/checkpoints/{checkpoint_id:path}"

ReaderDep = Annotated[Caller, Depends(KeyAccess("read"))]
"""Reads, by whatever method."""


class Checkpoints(TinkerReply):
    """A page of checkpoints, newest first."""

    checkpoints: list[Checkpoint]
    cursor: Cursor


class Ttl(TinkerRequest):
    """After how many seconds a checkpoint ends; null: never."""

    ttl_seconds: Annotated[int, Field(ge=-(2**53), le=2**53)] | None = None


class CheckpointSearch(TinkerRequest):
    """A search by what users noted."""

    user_metadata: Metadata | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str, Field(max_length=500)] | None = None


class FoundCheckpoints(TinkerReply):
    """A page of what was searched for; `next_cursor` null: there is no more."""

    checkpoints: list[Checkpoint]
    next_cursor: str | None


class CopyWeights(TinkerRequest):
    """What to copy: into a run of a session, or for a project, which is a word here."""

    source_path: Annotated[str, Field(max_length=1000)]
    ttl_seconds: Annotated[int, Field(ge=-(2**53), le=2**53)] | None = None
    session_id: Label | None = None
    model_seq_id: Annotated[int, Field(ge=0, lt=10**9)] | None = None
    destination_project_id: Label | None = None
    weights_access_token: str | None = None


class Copied(TinkerReply):
    """Where the copy is."""

    tinker_path: str


class Changed(TinkerReply):
    """Done, or done before."""

    status: str = "ok"


@router.get("/checkpoints")
async def list_checkpoints(
    context: ContextDep, caller: CallerDep, limit: LimitParam = 100, offset: OffsetParam = 0
) -> Checkpoints:
    """All checkpoints that the team has named, newest first."""
    async with context.database.session() as session:
        found, total = await listing.list_checkpoints(session, caller, limit, offset)
        shown = [Checkpoint.of(named) for named in found]
    return Checkpoints(checkpoints=shown, cursor=Cursor(offset=offset, limit=limit, total_count=total))


@router.post("/checkpoints/search")
async def search_checkpoints(context: ContextDep, caller: ReaderDep, body: CheckpointSearch) -> FoundCheckpoints:
    """Checkpoints whose metadata have all entries of the request's."""
    wanted = listing.CheckpointSearch(body.user_metadata)
    async with context.database.session() as session:
        found, following = await listing.search_checkpoints(session, caller, wanted, body.cursor, body.limit)
        return FoundCheckpoints(checkpoints=[Checkpoint.of(named) for named in found], next_cursor=following)


@router.post("/copy_weights")
async def copy_weights(
    context: ContextDep,
    caller: CallerDep,
    body: CopyWeights,
    x_idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> Copied:
    """Make a model of the caller's team with the same weights, under the same name; or find the one that this request
    has made before."""
    if body.weights_access_token:
        raise InvalidRequest("weights_access_token: this server has no such tokens; publish the checkpoint instead")
    if (body.session_id is None) != (body.model_seq_id is None):
        raise InvalidRequest("session_id and model_seq_id go together: they name the run that the copy shall be")
    run = None
    if body.session_id is not None and body.model_seq_id is not None:
        run = RunKey(body.session_id, body.model_seq_id)
    await have_path_files(context.heads, caller, body.source_path, "copying")
    request = CopyRequest(body.source_path, body.ttl_seconds, run, x_idempotency_key)
    async with context.database.session() as session:
        return Copied(tinker_path=await copy_checkpoint(session, caller, request))


@router.post(f"{_CHECKPOINT}/publish")
async def publish(context: ContextDep, caller: CallerDep, run: str, checkpoint_id: str) -> Changed:
    """Let every team load and sample it."""
    async with context.database.session() as session:
        await changing.set_published(session, caller, run, checkpoint_id, published=True)
    return Changed()


@router.delete(f"{_CHECKPOINT}/publish")
async def unpublish(context: ContextDep, caller: CallerDep, run: str, checkpoint_id: str) -> Changed:
    """Let its own team alone use it."""
    async with context.database.session() as session:
        await changing.set_published(session, caller, run, checkpoint_id, published=False)
    return Changed()


@router.put(f"{_CHECKPOINT}/ttl")
async def set_ttl(context: ContextDep, caller: CallerDep, run: str, checkpoint_id: str, body: Ttl) -> Changed:
    """Give it an end, or take it away."""
    async with context.database.session() as session:
        await changing.set_ttl(session, caller, run, checkpoint_id, body.ttl_seconds)
    return Changed()


@router.delete(_CHECKPOINT)
async def delete(context: ContextDep, caller: CallerDep, run: str, checkpoint_id: str) -> Changed:
    """Take the name away; the checkpoint's files follow as retention finds nothing else that needs them."""
    async with context.database.session() as session:
        await changing.delete_name(session, caller, run, checkpoint_id)
    return Changed()
