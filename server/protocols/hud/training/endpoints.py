"""`/v1/models/{model_id}/train`: admit, read, submit, answer. Bodies are read by `body`, not by the framework."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any
from uuid import UUID

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel
from pydantic_core import to_json

from server.auth.service import key_hash
from server.http.authentication import KeyDep
from server.http.context import Context, ContextDep
from server.http.disconnects import unless_disconnected
from server.http.request_body import COUNTED_BY_ITS_READER, open_body
from server.protocols.hud.shared.openapi import json_body
from server.protocols.hud.shared.routing import HudRouter
from server.protocols.hud.training import schemas as wire
from server.protocols.hud.training.body import read_request
from server.protocols.hud.training.digests import request_digest
from server.protocols.hud.training.forward_replies import Forward
from server.protocols.hud.training.sent import RequestT, Sent, name_pictures, sent_batch, sent_weights
from server.training import service
from server.training.admission import TrainedModel, training_call
from server.training.idempotency import IDEMPOTENCY_HEADER
from server.training.operations import Call, submit
from store.operation_kinds import BACKWARD, FORWARD, FORWARD_BACKWARD, OPTIM_STEP
from store.oplog.lost_answers import LEFT_OUT
from store.oplog.results import Result
from wire.engine import AdamParams, LossChoice
from wire.errors import InvalidRequest
from wire.process.off_loop import off_loop

router = HudRouter(prefix="/v1/models/{model_id}/train", tags=["training"])


@router.get("/losses")
async def losses(context: ContextDep, key: KeyDep, model_id: str) -> wire.Losses:
    """Names of the built-in losses."""
    return wire.Losses(losses=await service.losses(context.training, key_hash(key), model_id))


@router.post(
    "/forward-backward", response_model=wire.GradientPass, openapi_extra=json_body(wire.ForwardBackwardRequest)
)
async def forward_backward(context: ContextDep, key: KeyDep, model_id: str, request: Request) -> Response:
    """Add the gradient of a built-in loss over a batch of trajectories."""
    async with _training_call(context, key, model_id, request) as model:
        sent = await _read(context, request, model, wire.ForwardBackwardRequest)
        loss = LossChoice(sent.body.loss_fn, sent.body.loss_fn_config or {}, sent.body.num_substeps)
        digest = await _digest(FORWARD_BACKWARD.name, sent)
        batch = partial(sent_batch, sent, context.pictures, model)
        call = service.forward_backward(context.training, model, digest, batch, loss)
        _, (header, _) = await _answered(context, request, model, call, sent)
    return _reply(wire.GradientPass(**header))


@router.post("/forward", response_model=wire.ForwardPass, openapi_extra=json_body(wire.ForwardRequest))
async def forward(context: ContextDep, key: KeyDep, model_id: str, request: Request) -> Response:
    """Per-token logprobs of the current policy, and a handle for `backward`."""
    async with _training_call(context, key, model_id, request) as model:
        sent = await _read(context, request, model, wire.ForwardRequest)
        group_size = sent.body.group_size
        digest = await _digest(FORWARD.name, sent)
        call = service.forward(context.training, model, digest, partial(sent_batch, sent, context.pictures, model))
        operation_id, (header, arrays) = await _answered(context, request, model, call, sent)
    result = Forward(operation_id, header["traj_idx"], header["lengths"], arrays, group_size)
    return Response(await asyncio.to_thread(result.to_json), media_type="application/json")


@router.post("/backward", response_model=wire.GradientPass, openapi_extra=json_body(wire.BackwardRequest))
async def backward(context: ContextDep, key: KeyDep, model_id: str, request: Request) -> Response:
    """Add the gradient of a loss that the client computed: weights are −dC/dlogprobs."""
    async with _training_call(context, key, model_id, request) as model:
        sent = await _read(context, request, model, wire.BackwardRequest)
        digest = await _digest(BACKWARD.name, sent)
        call = service.backward(context.training, model, digest, partial(sent_weights, sent))
        _, (header, _) = await _answered(context, request, model, call, sent)
    return _reply(wire.GradientPass(**header))


@router.post(
    "/optim-step",
    response_model=wire.OptimStep,
    openapi_extra=json_body(wire.OptimStepRequest),
)
async def optim_step(context: ContextDep, key: KeyDep, model_id: str, request: Request) -> Response:
    """Apply what has accumulated; the new checkpoint is served when this returns."""
    async with _training_call(context, key, model_id, request, keeps=True) as model:
        sent = await _read(context, request, model, wire.OptimStepRequest)
        digest = await _digest(OPTIM_STEP.name, sent)
        call = service.optim_step(_adam(sent.body), digest)
        _, (header, _) = await _answered(context, request, model, call, sent)
    num_left_out = header.pop(LEFT_OUT, 0)  # passes whose answer nobody had
    stepped = wire.OptimStep(**header, model=model.slug)
    return _reply(stepped, {wire.LEFT_OUT_HEADER: str(num_left_out)} if num_left_out else None)


def _adam(body: wire.OptimStepRequest) -> AdamParams:
    if body.max_grad_norm == 0:  # to the core: clip nothing, whatever the trainer's own bound
        raise InvalidRequest("max_grad_norm is 0.0: it must be above 0; without it the trainer's own holds")
    return AdamParams(**body.model_dump())


def _training_call(
    context: Context, key: str, model_id: str, request: Request, *, keeps: bool = False
) -> AbstractAsyncContextManager[TrainedModel]:
    idempotency_key = request.headers.get(IDEMPOTENCY_HEADER)
    return training_call(context.training, key_hash(key), model_id, idempotency_key, keeps=keeps)


async def _read(context: Context, request: Request, model: TrainedModel, kind: type[RequestT]) -> Sent[RequestT]:
    """For callers who were admitted."""
    open_body(request, COUNTED_BY_ITS_READER)
    settings = context.settings
    sent = Sent(*await read_request(request, kind, settings.limits, settings.pictures.limits.bytes_in_all))
    await name_pictures(context.pictures, model, sent)
    return sent


async def _digest(kind: str, sent: Sent[Any]) -> bytes:
    return await off_loop(sent.num_bytes, request_digest, kind, sent.body)


async def _answered(
    context: Context, request: Request, model: TrainedModel, call: Call, sent: Sent[Any]
) -> tuple[UUID, Result]:
    """The operation and its result, unless the client disconnects."""
    async with submit(context.training, model, call) as operation:
        sent.drop()
        return operation.id, await unless_disconnected(request, operation.result())


def _reply(body: BaseModel, headers: dict[str, str] | None = None) -> Response:
    """JSON with the bare token NaN where a metric is not a number: the client takes that, but no null."""
    return Response(
        to_json(body.model_dump(), inf_nan_mode="constants"), headers=headers, media_type="application/json"
    )
