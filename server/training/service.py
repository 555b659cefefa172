"""What each training call does: check, encode, and be logged by `server.training.operations.submit`.

Batches come from functions, which are called when it is known that the call repeats none: reading rollouts takes long,
and nothing of a batch is kept while its call waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from server.principals.callers import Caller
from server.training.admission import TrainedModel, open_model
from server.training.checks import check_batch, check_loss, check_metrics, check_save, check_weights
from server.training.collaborators import Training
from server.training.forwards import open_forward
from server.training.operations import Call, Prepared
from server.training.recorded import ResolvedBatch, resolve_batch
from server.training.requests import BatchRequest, WeightsRequest
from store.operation_kinds import BACKWARD, FORWARD, FORWARD_BACKWARD, OPTIM_STEP, SAVE, UNPROMOTED_STEP
from wire.adamw import check_adam
from wire.conversion import to_datums
from wire.datum_payload import encode_datums
from wire.engine import AdamParams, LossChoice
from wire.payload import encode
from wire.process.off_loop import off_loop
from wire.saves import SaveRequest, encode_save
from wire.trajectories import Batch

BatchSource = Callable[[], Awaitable[BatchRequest]]
WeightsSource = Callable[[], Awaitable[WeightsRequest]]


async def losses(training: Training, who: Caller | bytes, model: str) -> list[str]:
    """Names of the built-in losses."""
    return sorted((await open_model(training, who, model, "read")).losses)


def forward_backward(
    training: Training, model: TrainedModel, digest: bytes, batch: BatchSource, loss: LossChoice
) -> Call:
    """Add the gradient of a built-in loss over a batch."""

    async def prepare() -> Prepared:
        resolved = await _resolved(training, model, await batch())
        return Prepared(*await off_loop(resolved.num_bytes, _forward_backward_payload, resolved, loss, model))

    return Call(FORWARD_BACKWARD.name, digest, prepare)


def forward(training: Training, model: TrainedModel, digest: bytes, batch: BatchSource) -> Call:
    """Logprobs of the current policy over a batch, and a handle for `backward`: the operation's id."""

    async def prepare() -> Prepared:
        resolved = await _resolved(training, model, await batch())
        return Prepared(*await off_loop(resolved.num_bytes, _forward_payload, resolved, model))

    return Call(FORWARD.name, digest, prepare)


def backward(training: Training, model: TrainedModel, digest: bytes, weights: WeightsSource) -> Call:
    """Add the gradient of −Σ w·logprob over the datums of a forward."""

    async def prepare() -> Prepared:
        request = await weights()
        check_metrics(request.metrics)
        handle = await open_forward(training.database, training.blobs, model.id, request.forward_id)
        check_weights(request.weights, handle.lengths)
        payload = await off_loop(request.num_bytes, _backward_payload, request)
        return Prepared(payload, sum(len(row) for row in request.weights), handle.operation_id)

    return Call(BACKWARD.name, digest, prepare)


def optim_step(adam: AdamParams, digest: bytes) -> Call:
    """Apply the accumulated gradient; the new checkpoint is the head when the result is there."""

    async def prepare() -> Prepared:
        check_adam(adam)
        return Prepared(encode({name: value for name, value in asdict(adam).items() if value is not None}))

    return Call(OPTIM_STEP.name, digest, prepare)


def unpromoted_step(adam: AdamParams, digest: bytes) -> Call:
    """Apply the accumulated gradient; samplers learn nothing of it. Without a gradient nothing changes."""
    return replace(optim_step(adam, digest), kind=UNPROMOTED_STEP.name)


def save(request: SaveRequest, digest: bytes) -> Call:
    """Write the files of the node that is the head when its turn has come, and name it."""

    async def prepare() -> Prepared:
        check_save(request)
        return Prepared(encode_save(request))

    return Call(SAVE.name, digest, prepare)


async def _resolved(training: Training, model: TrainedModel, request: BatchRequest) -> ResolvedBatch:
    return await resolve_batch(training.database, training.blobs, model, request, training.batch_tokens)


def _forward_backward_payload(resolved: ResolvedBatch, loss: LossChoice, model: TrainedModel) -> tuple[bytes, int]:
    batch, figures = resolved.batch, dict(resolved.figures)
    check_loss(loss, len(batch.trajectories), model.losses)
    check_batch(batch, resolved.recorded, model.info, logprobs_optional=loss.name == "cross_entropy")
    call = {"loss_fn": loss.name, "loss_fn_config": dict(loss.config), "num_substeps": loss.num_substeps}
    datums = to_datums(batch, loss.config)
    return encode_datums(datums, {**call, "metrics": figures} if figures else call, _made_by(batch)), batch.num_tokens


def _forward_payload(resolved: ResolvedBatch, model: TrainedModel) -> tuple[bytes, int]:
    check_batch(resolved.batch, resolved.recorded, model.info, logprobs_optional=True)
    return encode_datums(to_datums(resolved.batch), {}, _made_by(resolved.batch)), resolved.batch.num_tokens


def _made_by(batch: Batch) -> dict[str, Any]:
    return {"group_size": batch.group_size, "reward_scale": batch.reward_scale}


def _backward_payload(request: WeightsRequest) -> bytes:
    lengths = [len(row) for row in request.weights]
    weights = np.concatenate(request.weights) if request.weights else np.zeros(0, np.float32)
    return encode({"metrics": dict(request.metrics), "lengths": lengths}, {"weights": weights})
