"""Saving the weights of a run: under a name, or for a sampling session; accepted under the client's number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import Field

from server.catalog.runs import RunKey, no_such_run
from server.checkpoint_names.paths import check_name
from server.http.authentication import CallerDep
from server.http.context import Context, ContextDep
from server.principals.callers import Caller
from server.protocols.tinker.shared.routing import TinkerRouter
from server.protocols.tinker.shared.schemas import Future, TinkerRequest
from server.protocols.tinker.training.bodies import read_object
from server.protocols.tinker.training.numbered import answer_later, body_digest, checked, envelope
from server.training.admission import TrainedModel
from server.training.operations import Call
from server.training.service import save
from store.operation_kinds import SAVE
from wire.bounded import FEW_ENTRIES
from wire.errors import InvalidRequest
from wire.saves import SamplingSessionKey, SaveRequest, Use

router = TinkerRouter()

_RENUMBERED = "sampling_session_seq_id"
"""The SDK counts it on when it sends a request again; it is the first one's session all the same."""
_Notes = Annotated[dict[str, str], FEW_ENTRIES]


class SaveWeights(TinkerRequest):
    """A checkpoint to train on from."""

    path: str | None = None
    ttl_seconds: int | None = None
    overwrite: bool = False
    user_metadata: _Notes | None = None


class SaveForSampler(TinkerRequest):
    """Weights to sample: under a name, or for one sampling session."""

    path: str | None = None
    ttl_seconds: int | None = None
    user_metadata: _Notes | None = None
    sampling_session_seq_id: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    kind: Literal["snapshot", "inflight"] = "snapshot"


class SaveExternal(TinkerRequest):
    """Weights to take away."""

    path: str | None = None
    ttl_seconds: int | None = None
    age_encryption_recipients: Annotated[list[str], Field(fail_fast=True)] | None = None


@router.post("/save_weights")
async def save_weights(context: ContextDep, caller: CallerDep, request: Request) -> Future:
    """Save weights and optimizer state under a name."""

    def asked(body: dict[str, Any], _run: RunKey) -> SaveRequest:
        sent = checked(SaveWeights, body)
        return SaveRequest(
            Use.TRAINING,
            _name(sent.path),
            ttl_seconds=sent.ttl_seconds,
            overwrite=sent.overwrite,
            user_metadata=sent.user_metadata,
        )

    return await _save(context, caller, await read_object(request), asked)


@router.post("/save_weights_for_sampler")
async def save_weights_for_sampler(context: ContextDep, caller: CallerDep, request: Request) -> Future:
    """Save weights for sampling: under a name, or for one sampling session."""

    def asked(body: dict[str, Any], run: RunKey) -> SaveRequest:
        sent = checked(SaveForSampler, body)
        if sent.path is not None:
            return SaveRequest(
                Use.SAMPLER, _name(sent.path), ttl_seconds=sent.ttl_seconds, user_metadata=sent.user_metadata
            )
        if sent.sampling_session_seq_id is None:
            raise InvalidRequest(f"the request needs path, a name, or {_RENUMBERED}")
        key = SamplingSessionKey(run.session_id, sent.sampling_session_seq_id)
        return SaveRequest(Use(sent.kind), sampling_session=key)

    return await _save(context, caller, await read_object(request), asked)


@router.post("/save_weights_external")
async def save_weights_external(context: ContextDep, caller: CallerDep, request: Request) -> Future:
    """Save weights in the layout of other tools."""

    def asked(body: dict[str, Any], _run: RunKey) -> SaveRequest:
        sent = checked(SaveExternal, body)
        if sent.age_encryption_recipients:
            raise InvalidRequest("age_encryption_recipients: this server does not encrypt what it exports")
        return SaveRequest(Use.EXTERNAL, _name(sent.path), ttl_seconds=sent.ttl_seconds)

    return await _save(context, caller, await read_object(request), asked)


async def _save(
    context: Context, caller: Caller, body: dict[str, Any], asked: Callable[[dict[str, Any], RunKey], SaveRequest]
) -> Future:
    run_id, number = envelope(body)
    key = RunKey.of(run_id)
    if key is None:
        raise no_such_run(run_id)
    digest = body_digest(SAVE.name, body, _RENUMBERED)

    def make_call(_model: TrainedModel) -> Call:
        return save(asked(body, key), digest)

    return await answer_later(context, caller, run_id, number, SAVE.name, digest, make_call, keeps=True)


def _name(path: str | None) -> str:
    if path is None:
        raise InvalidRequest("path is missing: the name of the checkpoint")
    return check_name(path)
