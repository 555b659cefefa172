"""Gradient passes over datums as the client made them, for protocols whose clients merge turns and compute advantages
themselves. Their results have the logprob of every target."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from server.training.admission import TrainedModel
from server.training.checks import check_loss
from server.training.operations import Call, Prepared
from store.operation_kinds import FORWARD, FORWARD_BACKWARD
from wire.advantages import OVER_STD
from wire.datum_payload import encode_datums
from wire.datums import Datum
from wire.engine import LossChoice
from wire.errors import InvalidRequest
from wire.process.off_loop import off_loop

DatumSource = Callable[[], Awaitable[Sequence[Datum]]]
"""Makes the datums of what was sent, or raises InvalidRequest; called when it is known that the call repeats none."""


def gradient_pass(model: TrainedModel, digest: bytes, datums: DatumSource, loss: LossChoice, num_bytes: int) -> Call:
    """Add the gradient of a loss. `num_bytes`: of what was sent; work on many is done in a thread."""
    return _pass(FORWARD_BACKWARD.name, model, digest, datums, loss, num_bytes)


def evaluation(model: TrainedModel, digest: bytes, datums: DatumSource, loss: LossChoice, num_bytes: int) -> Call:
    """The loss and the logprobs, without a gradient."""
    return _pass(FORWARD.name, model, digest, datums, loss, num_bytes)


def _pass(kind: str, model: TrainedModel, digest: bytes, source: DatumSource, loss: LossChoice, num_bytes: int) -> Call:
    def encoded(datums: Sequence[Datum]) -> Prepared:
        call = {"loss_fn": loss.name, "loss_fn_config": dict(loss.config), "num_substeps": 1, "returns_logprobs": True}
        return Prepared(encode_datums(datums, call), sum(datum.num_tokens for datum in datums))

    async def prepare() -> Prepared:
        if loss.config.get(OVER_STD):
            raise InvalidRequest(f"loss_fn_config: {OVER_STD} is for rewards; these advantages are taken as they are")
        check_loss(loss, loss.num_substeps, model.losses)
        return await off_loop(num_bytes, encoded, await source())

    return Call(kind, digest, prepare)
