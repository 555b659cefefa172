"""Whether a base's layers multiply in bfloat16, which is held against float32 when the base loads."""

from __future__ import annotations

import structlog
import torch
from transformers import PreTrainedModel

from trainer.engine.frozen_linears import FrozenLinears
from trainer.engine.gathers import Gathers
from trainer.engine.packing import Pack
from trainer.engine.products import Bf16Products, Products
from trainer.engine.ranks import Ranks
from trainer.engine.self_check import Score, packed_figures
from wire.process.product_dtype import (
    MAX_DIFFERENCE_NATS,
    NO_INSTRUCTIONS,
    NO_ONEDNN,
    STORED_OTHERWISE,
    TOO_SMALL,
    multiplies_bf16,
)

log = structlog.get_logger(__name__)

_MAX_SLOPE_DIFFERENCE = 0.2
"""Of gradients, by their size. SmolLM2-135M: 0.06."""


def choose_bf16(
    model: PreTrainedModel, linears: FrozenLinears, pack: Pack, score: Score, gathers: Gathers, ranks: Ranks
) -> Products | None:
    """Products in bfloat16, or None where some rank has reason not to use them, which is logged.

    linears: of the model, which go on as before. pack: what it is held to float32 on; `score` makes the gathers of its
    forward.
    """
    reasons = ranks.gathered(_lack(linears))
    reason = next(filter(None, reasons), None)
    if reason is None:
        mine = _disagreement(model, linears, pack, score, gathers, ranks)
        reason = next(filter(None, ranks.gathered(mine)), None)
    if reason is None:
        return Bf16Products()
    log.warning("no_bf16_products", reason=reason, used="float32")
    return None


def _lack(linears: FrozenLinears) -> str | None:
    if not torch.backends.mkldnn.is_available():
        return NO_ONEDNN
    if not multiplies_bf16():
        return NO_INSTRUCTIONS
    if not (weights := linears.weights_worth_rounding()):
        return TOO_SMALL
    is_stored = all(torch.equal(weight.bfloat16().to(weight.dtype), weight) for weight in weights)
    return None if is_stored else STORED_OTHERWISE


def _disagreement(
    model: PreTrainedModel, linears: FrozenLinears, pack: Pack, score: Score, gathers: Gathers, ranks: Ranks
) -> str | None:
    logprobs_P, slope_D = packed_figures(model, pack, score, gathers, ranks)
    try:
        with linears.switched(Bf16Products()):
            rounded_P, rounded_slope_D = packed_figures(model, pack, score, gathers, ranks)
    except RuntimeError as error:  # oneDNN may have no kernel
        return str(error)
    if not (difference := (rounded_P - logprobs_P).abs().mean().item()) <= MAX_DIFFERENCE_NATS:
        return f"logprobs differ by {difference:.2g} nats a token"
    if not (difference := ((rounded_slope_D - slope_D).norm() / slope_D.norm()).item()) <= _MAX_SLOPE_DIFFERENCE:
        return f"gradients differ by {difference:.2g} of their size"
    return None
