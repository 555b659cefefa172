"""Loading saved weights: into a run that is made with them or, as older SDKs do it, into one that was just made."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Request
from pydantic import Field

from server.catalog.bases import base_by_name, public_name
from server.catalog.runs import NewRun, RunKey, create_run_from
from server.checkpoint_names.path_files import have_path_files
from server.checkpoint_names.resolving import resolve_path
from server.http.authentication import CallerDep
from server.http.context import Context, ContextDep
from server.principals.callers import Caller
from server.protocols.tinker.shared.routing import TinkerRouter
from server.protocols.tinker.shared.schemas import Future, Metadata, TinkerRequest
from server.protocols.tinker.training.bodies import read_object
from server.protocols.tinker.training.numbered import body_digest, checked, envelope
from server.protocols.tinker.training.runs import Optimizer, check_optimizer
from server.protocols.tinker.training.settled import settled_future
from server.training.loading import LOAD, Load, load_into
from server.training.runs import trained_run
from server.training.sequenced import refuse_in_order
from server.values.sanitizing import storable_json
from wire.errors import FINAL, HeadwayError, InvalidRequest

router = TinkerRouter()

_Path = Annotated[str, Field(max_length=1000)]


class LoadNew(TinkerRequest):
    """A run that begins with saved weights. weights_access_token: of another account, of which there are none here."""

    session_id: str
    model_seq_id: int
    path: _Path
    optimizer: bool = False
    optimizer_config: Optimizer | None = None
    base_model: str | None = None
    user_metadata: Metadata | None = None
    weights_access_token: str | None = None


class LoadInto(TinkerRequest):
    """Saved weights for a run that was just made."""

    path: _Path
    optimizer: bool = False


@router.post("/load_weights")
async def load_weights(context: ContextDep, caller: CallerDep, request: Request) -> Future:
    """Make a run with saved weights, or find the one that this request has made before; or give them to a new run."""
    body = await read_object(request)
    if body.get("session_id") is not None:
        return await _make(context, caller, checked(LoadNew, body))
    return await _load_into(context, caller, body)


async def _make(context: Context, caller: Caller, sent: LoadNew) -> Future:
    check_optimizer(sent.optimizer_config)
    if sent.weights_access_token:
        raise InvalidRequest("weights_access_token: this server has no such tokens; publish the checkpoint instead")
    new = NewRun(
        RunKey(sent.session_id, sent.model_seq_id), user_metadata=storable_json(sent.user_metadata, "user_metadata")
    )
    await have_path_files(context.heads, caller, sent.path, "training")
    async with context.database.session() as session:
        found = await resolve_path(session, caller, sent.path, "training")
        if sent.base_model is not None and (await base_by_name(session, sent.base_model)).id != found.base.id:
            raise InvalidRequest(f"{sent.path} is of the base {public_name(found.base)!r}, not {sent.base_model!r}")
        run = await create_run_from(session, caller, found.model, found.checkpoint, new, with_moments=sent.optimizer)
    return settled_future("load", run, sent.path)


async def _load_into(context: Context, caller: Caller, body: dict[str, Any]) -> Future:
    run_id, number = envelope(body)
    digest = body_digest(LOAD, body)
    model = await trained_run(context.training, caller, run_id)
    try:
        sent = checked(LoadInto, body)
        await have_path_files(context.heads, caller, sent.path, "training")
    except HeadwayError as error:
        if error.tries != FINAL:
            raise
        operation_id = await refuse_in_order(context.training, model, number, LOAD, digest, error)
    else:
        operation_id = await load_into(context.training, model, Load(number, sent.path, sent.optimizer, digest))
    return Future(request_id=operation_id.hex, model_id=run_id)
