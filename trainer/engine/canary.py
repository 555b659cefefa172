"""The canary of a checkpoint: one short sequence, and of a base that sees another one with a picture, scored under the
session's weights."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import torch

from trainer.engine.base_model import BaseModel
from trainer.engine.finite import all_finite
from trainer.engine.self_check import probe, probe_ids
from trainer.engine.session import Session
from trainer.engine.vision.sight import Sight
from wire.canary import Canary, PictureCanary
from wire.canary_picture import HEIGHT, WIDTH, canary_png
from wire.datums import Datum
from wire.errors import NonFinite
from wire.extension import Media, TokenSequence

_NUM_TOKENS = 17
_BEFORE, _BEHIND = 4, 8
"""Tokens of text, next to the picture."""
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
    greedy_ids, logprobs = _most_likely(base, datum)
    picture = _behind_a_picture(base, base.sight) if base.sight is not None else None
    return Canary(probe_ids(datum).tolist(), greedy_ids, logprobs, base.info.dtype, picture)


def _behind_a_picture(base: BaseModel, sight: Sight) -> PictureCanary | None:
    """None where the context has no room for it."""
    png, start, placeholder_id = canary_png(), _BEFORE, sight.rule.placeholder_id
    media = Media(start, sight.rule.num_tokens(WIDTH, HEIGHT), hashlib.sha256(png).digest(), WIDTH, HEIGHT)
    length = media.stop + _BEHIND
    if length > base.info.context_length:
        return None
    words = probe(length, base.info.vocab_size, seed=2).model_input.ids
    ids = np.append(words, words[-1:])
    # Another engine may take any placeholder for a part of a picture.
    ids[ids == placeholder_id] = 1 if placeholder_id == 0 else 0
    ids[media.start : media.stop] = placeholder_id
    with sight.of({media.digest: png}):
        greedy_ids, logprobs = _most_likely(base, _scored_behind(TokenSequence(ids, (media,)), media))
    return PictureCanary(ids.tolist(), media.start, media.num_tokens, greedy_ids, logprobs)


def _scored_behind(sequence: TokenSequence, media: Media) -> Datum:
    """From the picture's last token on."""
    datum = probe(len(sequence) - media.stop + 2, 2)
    first, stop = media.stop - 1, len(sequence)
    return replace(datum, model_input=sequence, spans=np.array([[first, stop]], np.int32))


def _most_likely(base: BaseModel, datum: Datum) -> tuple[list[int], list[float]]:
    pack = base.pack([datum])
    ids_P, logprobs_P = base.most_likely(pack)
    if not all_finite(logprobs_P):
        raise NonFinite(
            "this step would leave weights whose logprobs are not finite; it was not applied, and the accumulated "
            "gradients stay: step again with a lower learning_rate, or other betas and eps"
        )
    return ids_P[pack.inverse_N].tolist(), logprobs_P[pack.inverse_N].tolist()
