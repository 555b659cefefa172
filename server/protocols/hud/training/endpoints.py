"""`/v1/models/{model_id}/train`: parse, call, answer. Bodies are read by `training.body`, not by the framework."""

from __future__ import annotations

import asyncio

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel
from pydantic_core import to_json

from server.context import ContextDep
from server.http.authentication import KeyDep
from server.http.cache_barrier import CacheBarrier
from server.http.routing import KeyedRouter
from server.protocols.hud.openapi import json_body
from server.protocols.hud.training import schemas as wire
from server.training import service

router = KeyedRouter(prefix="/v1/models/{model_id}/train", tags=["training"])


@router.get("/losses")
async def losses(context: ContextDep, key: KeyDep, model_id: str) -> wire.Losses:
    """Names of the built-in losses."""
    return await service.losses(context, key, model_id)


@router.post(
    "/forward-backward", response_model=wire.GradientPass, openapi_extra=json_body(wire.ForwardBackwardRequest)
)
async def forward_backward(context: ContextDep, key: KeyDep, model_id: str, request: Request) -> Response:
    """Add the gradient of a built-in loss over a batch of trajectories."""
    return _reply(await service.forward_backward(context, key, model_id, request))


@router.post("/forward", response_model=wire.ForwardPass, openapi_extra=json_body(wire.ForwardRequest))
async def forward(context: ContextDep, key: KeyDep, model_id: str, request: Request) -> Response:
    """Per-token logprobs of the current policy, and a handle for `backward`."""
    result = await service.forward(context, key, model_id, request)
    return Response(await asyncio.to_thread(result.to_json), media_type="application/json")


@router.post("/backward", response_model=wire.GradientPass, openapi_extra=json_body(wire.BackwardRequest))
async def backward(context: ContextDep, key: KeyDep, model_id: str, request: Request) -> Response:
    """Add the gradient of a loss that the client computed: weights are −dC/dlogprobs."""
    return _reply(await service.backward(context, key, model_id, request))


@router.post(
    "/optim-step",
    response_model=wire.OptimStep,
    openapi_extra=json_body(wire.OptimStepRequest),
    dependencies=[CacheBarrier],
)
async def optim_step(context: ContextDep, key: KeyDep, model_id: str, request: Request) -> Response:
    """Apply what has accumulated; the new checkpoint is served when this returns."""
    stepped, num_left_out = await service.optim_step(context, key, model_id, request)
    return _reply(stepped, {wire.LEFT_OUT_HEADER: str(num_left_out)} if num_left_out else None)


def _reply(body: BaseModel, headers: dict[str, str] | None = None) -> Response:
    """JSON with the bare token NaN where a metric is not a number: the client takes that, but no null."""
    return Response(
        to_json(body.model_dump(), inf_nan_mode="constants"), headers=headers, media_type="application/json"
    )
