"""The canary of a checkpoint: one short sequence, scored under the session's weights."""

from __future__ import annotations

from trainer.engine.base_model import BaseModel
from trainer.engine.finite import all_finite
from trainer.engine.self_check import probe
from trainer.engine.session import Session
from wire.canary import Canary
from wire.errors import NonFinite

_NUM_TOKENS = 17


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
    return Canary(datum.ids.tolist(), greedy_ids, logprobs, base.info.dtype)
