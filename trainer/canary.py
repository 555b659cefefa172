"""The canary of a checkpoint: one short sequence, scored under the session's weights."""

from __future__ import annotations

from trainer.base_model import BaseModel
from trainer.self_check import probe
from trainer.session import Session
from wire.canary import Canary

_NUM_TOKENS = 17


def sing(base: BaseModel, session: Session) -> Canary:
    """What the policy would say after the same ids for every session of a base; binds the session."""
    base.bind(session)
    datum = probe(_NUM_TOKENS, base.info.vocab_size)
    pack = base.pack([datum])
    ids_P, logprobs_P = base.most_likely(pack)
    greedy_ids, logprobs = ids_P[pack.inverse_N].tolist(), logprobs_P[pack.inverse_N].tolist()
    return Canary(datum.ids.tolist(), greedy_ids, logprobs, base.info.dtype)
