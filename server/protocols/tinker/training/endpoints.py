"""Gradient passes and optimizer steps of a run: accepted under the client's number, answered later."""

from __future__ import annotations

from functools import partial

from fastapi import Depends, Request

from server.http.authentication import CallerDep
from server.http.context import Context, ContextDep
from server.pictures.prompts import rule_of, sequences, with_names
from server.principals.callers import Caller
from server.protocols.tinker.shared.routing import TinkerRouter
from server.protocols.tinker.shared.schemas import Future
from server.protocols.tinker.training.bodies import BATCH, read_object, read_pass
from server.protocols.tinker.training.numbered import Closed, answer_later, body_digest, checked, envelope
from server.protocols.tinker.training.passes.datums import read_inputs, to_datums
from server.protocols.tinker.training.passes.json_forms import JsonPass
from server.protocols.tinker.training.passes.protobuf import ProtobufPass
from server.protocols.tinker.training.passes.sent import SentPass
from server.training.admission import TrainedModel
from server.training.datum_calls import evaluation, gradient_pass
from server.training.operations import Call
from server.training.service import unpromoted_step
from store.operation_kinds import FORWARD, FORWARD_BACKWARD, UNPROMOTED_STEP
from wire.datums import Datum
from wire.engine import AdamParams, LossChoice
from wire.errors import InvalidRequest
from wire.process.off_loop import off_loop

router = TinkerRouter()


class Adam(Closed):
    """Parameters of one step, with the SDK's defaults."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


@router.post("/forward_backward", dependencies=[Depends(BATCH)])
async def forward_backward(context: ContextDep, caller: CallerDep, request: Request) -> Future:
    """Add the gradient of a loss over datums; with `forward_only`, the loss and the logprobs alone."""
    return await _pass(context, caller, request, is_forward=False)


@router.post("/forward", dependencies=[Depends(BATCH)])
async def forward(context: ContextDep, caller: CallerDep, request: Request) -> Future:
    """The loss and the logprobs over datums, as SDKs before 0.25 ask for them."""
    return await _pass(context, caller, request, is_forward=True)


@router.post("/optim_step")
async def optim_step(context: ContextDep, caller: CallerDep, request: Request) -> Future:
    """Apply what has accumulated."""
    body = await read_object(request)
    run_id, number = envelope(body)
    kind, digest = UNPROMOTED_STEP.name, body_digest(UNPROMOTED_STEP.name, body)

    def make_call(model: TrainedModel) -> Call:
        other = body.get("optimizer_params") or body.get("optim_params")
        if other:
            raise InvalidRequest(f"this run is trained with adamw, and has no parameters of {_type_of(other)!r}")
        sent = body.get("adam_params")
        return unpromoted_step(_adam(checked(Adam, {} if sent is None else sent, "adam_params")), digest)

    return await answer_later(context, caller, run_id, number, kind, digest, make_call, keeps=True)


async def _pass(context: Context, caller: Caller, request: Request, *, is_forward: bool) -> Future:
    limits = context.settings.limits
    parsed, num_bytes = await read_pass(request, limits, is_forward=is_forward)
    run_id, number = parsed.model_id, parsed.number
    kind = FORWARD.name if parsed.is_forward else FORWARD_BACKWARD.name
    sent, problem = await off_loop(num_bytes, _read, parsed)
    digest = await off_loop(num_bytes, sent.digest, kind)

    def make_call(model: TrainedModel) -> Call:
        if problem is not None:
            raise problem
        loss = LossChoice(sent.loss_fn, _numbers(sent))
        asked = evaluation if parsed.is_forward else gradient_pass
        return asked(model, digest, partial(_datums, context, model, sent, num_bytes), loss, num_bytes)

    return await answer_later(context, caller, run_id, number, kind, digest, make_call)


async def _datums(context: Context, model: TrainedModel, sent: SentPass, num_bytes: int) -> list[Datum]:
    """What is computed over. Raises InvalidRequest, TooLarge, NotFound for a picture."""
    most, info = context.settings.limits.batch_tokens, model.info
    asked = context.pictures, model.team_id, rule_of(info.pictures)
    named = await with_names(*asked, await off_loop(num_bytes, read_inputs, sent, info))
    return await off_loop(num_bytes, to_datums, sent, await sequences(*asked, named), info, most)


def _read(parsed: ProtobufPass | JsonPass) -> tuple[SentPass, InvalidRequest | None]:
    """What was sent; where that makes no sense, nothing, and what is wrong with it."""
    try:
        return parsed.read(), None
    except InvalidRequest as error:
        return SentPass([], error.message, {}), error


def _numbers(sent: SentPass) -> dict[str, float]:
    for name, value in sent.config.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InvalidRequest(f"loss_fn_config: {name} must be a number")
    try:
        return {name: float(value) for name, value in sent.config.items()}
    except OverflowError:
        raise InvalidRequest("loss_fn_config holds an integer that is larger than any float") from None


def _adam(sent: Adam) -> AdamParams:
    if not sent.grad_clip_norm >= 0:
        raise InvalidRequest(f"grad_clip_norm is {sent.grad_clip_norm}: it must be 0, for no clipping, or more")
    return AdamParams(**sent.model_dump(exclude={"grad_clip_norm"}), max_grad_norm=sent.grad_clip_norm)


def _type_of(params: object) -> str:
    return str(params.get("type"))[:50] if isinstance(params, dict) else "that kind"
