"""What each training call does: authorise, read, check, append, wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import numpy as np
from fastapi import Request

from server.context import Context
from server.http.request_body import COUNTED_BY_ITS_READER, open_body
from server.protocols.hud.training import schemas as wire
from server.protocols.hud.training.body import read_request
from server.protocols.hud.training.sent import RequestT, Sent
from server.training.admission import TrainedModel, open_model, training_call
from server.training.checks import check_loss, check_metrics, check_weights, checked_batch
from server.training.forwards import Forward, open_forward
from server.training.idempotency import request_digest
from server.training.operations import Prepared, run_operation
from server.training.recorded import RecordedInputs, resolve_inputs
from store.operation_kinds import BACKWARD, FORWARD, FORWARD_BACKWARD, OPTIM_STEP
from store.oplog.lost_answers import LEFT_OUT
from store.oplog.results import Result
from wire.adamw import check_adam
from wire.engine import AdamParams
from wire.payload import encode, encode_batch
from wire.process.off_loop import off_loop


async def losses(context: Context, key: str, model_id: str) -> wire.Losses:
    """Names of the built-in losses."""
    model = await open_model(context, key, model_id, "read")
    return wire.Losses(losses=sorted(model.losses))


async def forward_backward(context: Context, key: str, model_id: str, request: Request) -> wire.GradientPass:
    """Add the gradient of a built-in loss over a batch."""
    async with training_call(context, key, model_id, request) as model:
        sent = await _read(context, request, wire.ForwardBackwardRequest)

        async def prepare() -> Prepared:
            recorded = await resolve_inputs(context, model, sent.body)
            num_resolved = sent.num_bytes + recorded.num_bytes
            return Prepared(*await off_loop(num_resolved, _forward_backward_payload, recorded, model))

        _, (header, _) = await _run(context, request, model, FORWARD_BACKWARD.name, sent, prepare)
        return wire.GradientPass(**header)


async def forward(context: Context, key: str, model_id: str, request: Request) -> Forward:
    """Logprobs of the current policy over a batch, and a handle for `backward`."""
    async with training_call(context, key, model_id, request) as model:
        sent = await _read(context, request, wire.ForwardRequest)
        return await run_forward(context, model, sent, request)


async def run_forward(
    context: Context, model: TrainedModel, sent: Sent[wire.ForwardRequest], request: Request
) -> Forward:
    """A forward over inputs that were read already. `request`: that of the caller who waits."""
    group_size = sent.body.group_size

    async def prepare() -> Prepared:
        recorded = await resolve_inputs(context, model, sent.body)
        return Prepared(*await off_loop(sent.num_bytes + recorded.num_bytes, _forward_payload, recorded, model))

    operation_id, (header, arrays) = await _run(context, request, model, FORWARD.name, sent, prepare)
    return Forward(operation_id, header["traj_idx"], header["lengths"], arrays, group_size)


async def backward(context: Context, key: str, model_id: str, request: Request) -> wire.GradientPass:
    """Add the gradient of −Σ w·logprob over the datums of a forward."""
    async with training_call(context, key, model_id, request) as model:
        sent = await _read(context, request, wire.BackwardRequest)

        async def prepare() -> Prepared:
            body = sent.body
            check_metrics(body.metrics)
            handle = await open_forward(context, model.id, body.forward_id)
            check_weights(body.weights, handle.lengths)
            payload = await off_loop(sent.num_bytes, _backward_payload, body)
            return Prepared(payload, sum(len(row) for row in body.weights), handle.operation_id)

        _, (header, _) = await _run(context, request, model, BACKWARD.name, sent, prepare)
        return wire.GradientPass(**header)


async def optim_step(context: Context, key: str, model_id: str, request: Request) -> tuple[wire.OptimStep, int]:
    """Apply the accumulated gradient; the new checkpoint is the head when this returns. With it, how many passes were
    left out, for nobody had their answer."""
    async with training_call(context, key, model_id, request, keeps=True) as model:
        sent = await _read(context, request, wire.OptimStepRequest)

        async def prepare() -> Prepared:
            check_adam(AdamParams(**sent.body.model_dump()))
            return Prepared(encode(sent.body.model_dump(exclude_none=True)))

        _, (header, _) = await _run(context, request, model, OPTIM_STEP.name, sent, prepare)
        num_left_out = header.pop(LEFT_OUT, 0)
        return wire.OptimStep(**header, model=model.slug), num_left_out


async def _run(
    context: Context,
    request: Request,
    model: TrainedModel,
    kind: str,
    sent: Sent[Any],
    prepare: Callable[[], Awaitable[Prepared]],
) -> tuple[UUID, Result]:
    digest = await off_loop(sent.num_bytes, request_digest, kind, sent.body)
    return await run_operation(context, request, model, kind, digest, prepare, sent.drop)


async def _read(context: Context, request: Request, kind: type[RequestT]) -> Sent[RequestT]:
    """For callers whom `open_model` has admitted."""
    open_body(request, COUNTED_BY_ITS_READER)
    return Sent(*await read_request(request, kind, context.settings.limits))


def _forward_backward_payload(
    recorded: RecordedInputs[wire.ForwardBackwardRequest], model: TrainedModel
) -> tuple[bytes, int]:
    body, figures = recorded.request, recorded.figures
    check_loss(body, model.losses)
    batch = checked_batch(body, model.info, logprobs_optional=body.loss_fn == "cross_entropy")
    extra = {"loss_fn": body.loss_fn, "loss_fn_config": body.loss_fn_config or {}, "num_substeps": body.num_substeps}
    return encode_batch(batch, {**extra, "metrics": figures} if figures else extra), batch.num_tokens


def _forward_payload(recorded: RecordedInputs[wire.ForwardRequest], model: TrainedModel) -> tuple[bytes, int]:
    batch = checked_batch(recorded.request, model.info, logprobs_optional=True)
    return encode_batch(batch, {}), batch.num_tokens


def _backward_payload(body: wire.BackwardRequest) -> bytes:
    lengths = [len(row) for row in body.weights]
    weights = np.concatenate(body.weights) if body.weights else np.zeros(0, np.float32)
    return encode({"metrics": body.metrics, "lengths": lengths}, {"weights": weights})
