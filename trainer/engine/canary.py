"""The canary of a checkpoint: one short sequence, scored under the session's weights."""

from __future__ import annotations

import math

import torch

from trainer.engine.base_model import BaseModel
from trainer.engine.finite import all_finite
from trainer.engine.self_check import probe, probe_ids
from trainer.engine.session import Session
from wire.canary import Canary
from wire.errors import NonFinite

_NUM_TOKENS = 17
_SAFE_WEIGHT, _SAFE_ALPHA = 1e3, 32
"""Norms bound what each block reads, and the unembedding, so LoRA factors of at most this size add at most
alpha · 1e6 · D · |x| to a projection (alpha being r times the scale): 3e11 for D = 1e4, whatever the rank. The product
of two of those through a third stays below 1e35, and float32 and bfloat16 reach to 3e38; logits are one projection
alone. Factors of a larger alpha may be smaller only. Trained factors are below 1."""


def may_overflow(base: BaseModel, session: Session) -> bool:
    """Whether finite weights of this size could give logits that are not. float16 ends at 65,504: there any could."""
    safe = _SAFE_WEIGHT * min(1.0, math.sqrt(_SAFE_ALPHA / session.lora.alpha))
    return base.served_dtype == torch.float16 or session.weights.abs().max().item() > safe


def compute_canary(base: BaseModel, session: Session) -> Canary:
    """What the policy would say after the same ids for every session of a base; binds the session.

    Raises NonFinite where it could say nothing: finite weights may give infinite logits.
    """
    base.bind(session)
    datum = probe(_NUM_TOKENS, base.info.vocab_size)
    pack = base.pack([datum])
    ids_P, logprobs_P = base.most_likely(pack)
    if not all_finite(logprobs_P):
        raise NonFinite(
            "this step would leave weights whose logprobs are not finite; it was not applied, and the accumulated "
            "gradients stay: step again with a lower learning_rate, or other betas and eps"
        )
    greedy_ids, logprobs = ids_P[pack.inverse_N].tolist(), logprobs_P[pack.inverse_N].tolist()
    return Canary(probe_ids(datum).tolist(), greedy_ids, logprobs, base.info.dtype)
