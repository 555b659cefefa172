"""Whether a base's layers multiply in bfloat16, which is held against float32 when the base loads."""

# T tokens, V vocabulary

from __future__ import annotations

from collections.abc import Callable

import structlog
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sampler.backends.local.base_model import text_part
from sampler.backends.local.packed_linears import multiply_as_before, multiply_in_bf16, plain_linears
from wire.process.product_dtype import (
    MAX_DIFFERENCE_NATS,
    NO_INSTRUCTIONS,
    NO_ONEDNN,
    STORED_OTHERWISE,
    TOO_SMALL,
    ProductDtype,
    is_worth_rounding,
    multiplies_bf16,
    probe_ids,
)

log = structlog.get_logger(__name__)

Logits = Callable[[list[int]], Tensor]


def choose_products(model: PreTrainedModel, wanted: ProductDtype, logits: Logits) -> ProductDtype:
    """The wanted ones, or float32 where those are no good, which is logged. All layers of the text part but the head
    and small ones then multiply so.

    logits: [T, V] of ids, by this model and whatever its layers multiply in. The head stays float32: rounding logits
    alone would cost twice what all other layers cost together.
    """
    if wanted is ProductDtype.FLOAT32:
        return wanted
    head = model.get_output_embeddings()
    linears = [linear for linear in plain_linears(text_part(model)) if linear is not head]
    layers = [linear for linear in linears if is_worth_rounding(linear.weight.numel())]
    reason = _lack(layers) or _disagreement(layers, logits, probe_ids(model.config.get_text_config().vocab_size))
    if reason is None:
        return ProductDtype.BF16
    log.warning("no_bf16_products", reason=reason, used=ProductDtype.FLOAT32)
    return ProductDtype.FLOAT32


def _lack(layers: list[nn.Linear]) -> str | None:
    if not torch.backends.mkldnn.is_available():
        return NO_ONEDNN
    if not multiplies_bf16():
        return NO_INSTRUCTIONS
    if not layers:
        return TOO_SMALL
    is_stored = all(torch.equal(each.weight.bfloat16().float(), each.weight) for each in layers)
    return None if is_stored else STORED_OTHERWISE


def _disagreement(layers: list[nn.Linear], logits: Logits, ids: list[int]) -> str | None:
    """What is wrong with bf16 products, which are then undone; None, and they stay."""
    exact_T = _logprobs(logits, ids)
    try:
        multiply_in_bf16(layers)
        difference = float((_logprobs(logits, ids) - exact_T).abs().mean())
        reason = None if difference <= MAX_DIFFERENCE_NATS else f"logprobs differ by {difference:.2g} nats a token"
    except RuntimeError as error:  # oneDNN may have no kernel
        reason = str(error)
    if reason is not None:
        multiply_as_before(layers)
    return reason


def _logprobs(logits: Logits, ids: list[int]) -> Tensor:
    """Of each id but the first."""
    logprobs_TV = logits(ids)[:-1].float().log_softmax(-1)
    return logprobs_TV.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
