"""Sampling: sessions that stand for weights, requests that are answered later, and which of them have been."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Depends, Request
from pydantic import Field
from pydantic_core import from_json
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.bases import base_by_name
from server.catalog.heads import have_files
from server.checkpoint_names.resolving import resolve_path
from server.client_sessions.service import get_open_session
from server.http.access import Access, DescribedKey, sent_key
from server.http.authentication import ReporterDep, SampleDep
from server.http.context import Context, ContextDep
from server.http.disconnects import unless_disconnected
from server.http.picture_bodies import UPLOAD_WITH_PICTURES
from server.pictures.prompts import rule_of, sequences, with_names
from server.pictures.taking import PictureNotFound
from server.principals.callers import Caller
from server.protocols.tinker.sampling.requests import num_samples_of, read_call, read_prompt
from server.protocols.tinker.shared.routing import TinkerRouter
from server.protocols.tinker.shared.schemas import TinkerReply, TinkerRequest
from server.sampling_sessions.calls import SampleCall
from server.sampling_sessions.futures import Failed, sequence_ids
from server.sampling_sessions.sessions import (
    SampledWeights,
    get_sampler,
    join_sampling_session,
    open_sampling_session,
)
from store.tables import CheckpointRow
from wire.errors import InvalidRequest, TooLarge
from wire.picture_rule import PictureRule
from wire.process.off_loop import off_loop
from wire.prompt_chunks import num_pictures

router = TinkerRouter()

_POLL_S = 30.0
_MOST_RETRIEVED = 10_000
_SEQUENCES = Field(ge=0, lt=2**63)
_REQUEST_ID = re.compile(r"sample-([0-9a-f]{32})")
_CALLER = "headway.tinker.sampling_caller"

SamplerId = Annotated[str, Field(min_length=1, max_length=500)]


class _RoomToSample(Access):
    """A live key that may sample, of a team that has not too many requests under way: before the body is read."""

    async def admit(self, request: Request) -> None:
        context: Context = request.app.state.context
        caller = (await context.sampling.keys.admit(sent_key(request))).caller
        context.sampling_futures.runs.check_room(caller.team_id)
        request.scope[_CALLER] = caller

    async def __call__(self, request: Request, _described: DescribedKey) -> Caller:
        """The caller of a request that was admitted."""
        return request.scope[_CALLER]


class CreateSamplingSession(TinkerRequest):
    """Which weights to sample: a base model's, or those of a path."""

    session_id: SamplerId
    sampling_session_seq_id: Annotated[int, Field(ge=0, lt=2**31)]
    base_model: Annotated[str, Field(max_length=500)] | None = None
    model_path: Annotated[str, Field(max_length=1000)] | None = None


class CreatedSamplingSession(TinkerReply):
    """Its id."""

    type: Literal["create_sampling_session"] = "create_sampling_session"
    sampling_session_id: str


class Sampler(TinkerReply):
    """What a sampling session samples."""

    sampler_id: str
    base_model: str
    model_path: str | None = None


class JoinSamplingSession(TinkerRequest):
    """Another client of a sampling session."""

    sampling_session_id: SamplerId


class JoinedSamplingSession(TinkerReply):
    """Its number."""

    type: Literal["join_sampling_session"] = "join_sampling_session"
    client_counter: int


class SamplePromise(TinkerReply):
    """A request that was accepted, and an id for each of its answers."""

    request_id: str
    sample_sequence_ids: list[str]


class SamplingTarget(TinkerRequest):
    """One client of a sampling session."""

    type: Literal["sampling_session"] = "sampling_session"
    sampling_session_id: SamplerId
    cloned_sampler_id: Annotated[int, Field(ge=0, le=2**32)] = 0


class RetrieveFutures(TinkerRequest):
    """Which requests have ended since the last poll; whose results the client has."""

    target: SamplingTarget
    prev_cursor: Annotated[int, _SEQUENCES] = 0
    timeout: Annotated[float, Field(ge=0)] | None = None
    retrieved_request_ids: Annotated[list[str], Field(fail_fast=True, max_length=_MOST_RETRIEVED)] = Field(
        default_factory=list[str]
    )


class CompletedFuture(TinkerReply):
    """A request that has ended."""

    state: Literal["finished", "failed"]
    request_id: str


class RetrievedFutures(TinkerReply):
    """Those that ended, and where to go on."""

    completions: list[CompletedFuture]
    cursor: int


def request_id_of(sampling_request: UUID) -> str:
    """The id under which clients fetch the answer."""
    return f"sample-{sampling_request.hex}"


def sampling_request_of(request_id: str) -> UUID | None:
    """None for the id of another kind of request."""
    found = _REQUEST_ID.fullmatch(request_id)
    return UUID(found[1]) if found else None


@router.post("/create_sampling_session")
async def create_sampling_session(
    context: ContextDep, caller: SampleDep, request: Request, body: CreateSamplingSession
) -> CreatedSamplingSession:
    """Open a sampling session, or find the one of this number. A node without files gets them first."""
    async with context.database.session() as session:
        await get_open_session(session, caller.team_id, body.session_id)
        weights, node = await _weights(session, caller, body.base_model, body.model_path)
    if node is not None and not node.is_saved:
        await unless_disconnected(request, have_files(context.heads, node))
    async with context.database.session() as session:
        opened = await open_sampling_session(session, caller, body.session_id, body.sampling_session_seq_id, weights)
    return CreatedSamplingSession(sampling_session_id=opened)


@router.get("/samplers/{sampling_session_id}")
async def show_sampler(context: ContextDep, caller: ReporterDep, sampling_session_id: str) -> Sampler:
    """What a sampling session samples."""
    async with context.database.session() as session:
        found = await get_sampler(session, caller, sampling_session_id)
    return Sampler(sampler_id=found.id, base_model=found.base, model_path=found.path)


@router.post("/join_sampling_session")
async def join(context: ContextDep, caller: ReporterDep, body: JoinSamplingSession) -> JoinedSamplingSession:
    """A number for another client of the sampling session, which numbers its requests from there on."""
    async with context.database.session() as session:
        number = await join_sampling_session(session, caller, body.sampling_session_id)
    return JoinedSamplingSession(client_counter=number)


@router.post("/asample", dependencies=[Depends(UPLOAD_WITH_PICTURES)])
async def asample(
    context: ContextDep, caller: Annotated[Caller, Depends(_RoomToSample())], request: Request
) -> SamplePromise:
    """Accept a request to sample. What is wrong with it, its answer will say."""
    content = await request.body()
    sent = await off_loop(len(content), _object, content)
    sampler_id, sequence = sent.get("sampling_session_id"), sent.get("seq_id")
    if not isinstance(sampler_id, str) or type(sequence) is not int or not 0 <= sequence < 2**63:
        raise InvalidRequest("asample needs sampling_session_id and seq_id; create_sampling_session opens a session")
    call = await _call_or_failure(context, caller, sampler_id, sent, len(content))
    accepted = await context.sampling_futures.submit(caller, sampler_id, sequence, call)
    return SamplePromise(
        request_id=request_id_of(accepted), sample_sequence_ids=sequence_ids(accepted, num_samples_of(sent))
    )


@router.post("/retrieve_futures")
async def retrieve_futures(
    context: ContextDep, caller: ReporterDep, request: Request, body: RetrieveFutures
) -> RetrievedFutures:
    """The requests of one client of a sampling session that have ended since the last poll."""
    target, futures = body.target, context.sampling_futures
    async with context.database.session() as session:
        await get_sampler(session, caller, target.sampling_session_id)
    fetched = [found for sent in body.retrieved_request_ids if (found := sampling_request_of(sent)) is not None]
    await futures.drop_fetched(caller.team_id, target.sampling_session_id, fetched)
    timeout_s = _POLL_S if body.timeout is None else min(body.timeout, _POLL_S)
    completed = await unless_disconnected(
        request,
        futures.completed(target.sampling_session_id, target.cloned_sampler_id, body.prev_cursor, timeout_s),
    )
    return RetrievedFutures(
        completions=[
            CompletedFuture(state="finished" if one.state == "done" else "failed", request_id=request_id_of(one.id))
            for one in completed
        ],
        cursor=max([body.prev_cursor, *(one.cursor for one in completed)]),
    )


async def _weights(
    session: AsyncSession, caller: Caller, base_model: str | None, model_path: str | None
) -> tuple[SampledWeights, CheckpointRow | None]:
    """What to sample, and the node of which it has the weights."""
    if model_path is None:
        if base_model is None:
            raise InvalidRequest("a sampling session needs a base_model or a model_path")
        return SampledWeights("base", (await base_by_name(session, base_model)).id), None
    found = await resolve_path(session, caller, model_path, "sampling")
    if base_model is not None and (await base_by_name(session, base_model)).id != found.base.id:
        raise InvalidRequest(f"the base model of {model_path} is {found.base.slug!r}, not {base_model!r}")
    return SampledWeights("path", found.model.id, found.checkpoint.id, model_path), found.checkpoint


def _object(content: bytes) -> dict[str, Any]:
    try:
        sent: Any = from_json(content)
    except ValueError as error:
        raise InvalidRequest(f"the body is no JSON: {error}") from None
    if not isinstance(sent, dict):
        raise InvalidRequest("the body must be a JSON object")
    return sent


async def _call_or_failure(
    context: Context, caller: Caller, sampler_id: str, sent: dict[str, Any], num_bytes: int
) -> SampleCall | Failed:
    """Raises what is no fault of the request."""
    try:
        prompt = await off_loop(num_bytes, read_prompt, sent)
        rule = await _rule(context, caller, sampler_id) if num_pictures(prompt.chunks) else None
        named = await with_names(context.pictures, caller.team_id, rule, [prompt])
        (sequence,) = await sequences(context.pictures, caller.team_id, rule, named)
        return await off_loop(num_bytes, read_call, sent, sequence)
    except (InvalidRequest, TooLarge, PictureNotFound) as error:
        return Failed("user", error.message)


async def _rule(context: Context, caller: Caller, sampler_id: str) -> PictureRule | None:
    """How the base of a sampling session reads pictures. Raises as `get_sampler`."""
    async with context.database.session() as session:
        return rule_of((await get_sampler(session, caller, sampler_id)).pictures)
