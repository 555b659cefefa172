"""Requests that carry their client's number: accepted, and answered later, whatever is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

from server.http.context import Context
from server.principals.callers import Caller
from server.protocols.tinker.shared.schemas import Future
from server.training.admission import TrainedModel
from server.training.operations import Call
from server.training.runs import trained_run
from server.training.sequenced import refuse_in_order, submit_in_order
from server.values.validation_messages import first_problem
from wire.errors import HeadwayError, InvalidRequest

_OUTSIDE = ("model_id", "seq_id")
SentT = TypeVar("SentT", bound=BaseModel)


class Closed(BaseModel):
    """A part of a request in which an unknown field is refused, for it would change the result."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


async def answer_later(
    context: Context,
    caller: Caller,
    run_id: str,
    number: int,
    kind: str,
    digest: bytes,
    make_call: Callable[[TrainedModel], Call],
    *,
    keeps: bool = False,
) -> Future:
    """The future of the operation under this number. What `make_call` finds wrong is its failure, and no refusal.

    `keeps`: the call adds to what is stored. Raises NotFound for the run, SessionFinished, NumberReused, and troubles
    that pass.
    """
    training = context.training
    model = await trained_run(training, caller, run_id, keeps=keeps)
    try:
        call = make_call(model)
    except HeadwayError as error:
        operation_id = await refuse_in_order(training, model, number, kind, digest, error)
    else:
        operation_id = await submit_in_order(training, model, number, call)
    return Future(request_id=operation_id.hex, model_id=run_id)


def envelope(body: Mapping[str, Any]) -> tuple[str, int]:
    """The run and the number. Raises InvalidRequest."""
    run_id, number = (body.get(name) for name in _OUTSIDE)
    if not isinstance(run_id, str) or not isinstance(number, int) or isinstance(number, bool):
        raise InvalidRequest("the request needs model_id, a text, and seq_id, an integer")
    return run_id, number


def body_digest(kind: str, body: Mapping[str, Any], *left_out: str) -> bytes:
    """SHA-256 of a small body. `left_out`: fields that a repetition may have otherwise."""
    compared = {name: body[name] for name in sorted(body) if name not in (*_OUTSIDE, *left_out)}
    return hashlib.sha256(kind.encode() + b"\0" + to_json(compared, inf_nan_mode="constants")).digest()


def checked(kind: type[SentT], sent: Any, *name: str) -> SentT:
    """A body, or the part of this name. Raises InvalidRequest."""
    if not isinstance(sent, dict):
        raise InvalidRequest(f"{'.'.join(name) or 'the body'} must be an object")
    try:
        return kind.model_validate(sent)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise InvalidRequest(first_problem([{**one, "loc": ("body", *name, *one["loc"])} for one in found])) from None
