"""A base model proves itself when it loads: packed logprobs against transformers' own, one plain row a sequence.

A wrong attention, position or logit treatment raises no error by itself; it costs 0.3 nats or more a token. Two
short sequences are enough to tell that from rounding, and take milliseconds. What this leaves out: windows longer
than the sequences.
"""

# T packed tokens, N predictions

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from transformers import PreTrainedModel

from trainer.attention import IMPLEMENTATION, UnsupportedArchitecture
from trainer.batch import Datum
from trainer.packing import Pack, build_pack

# Mean absolute difference in nats: well above rounding, well below the cheapest mistake.
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
_LOW_PRECISION_TOLERANCE = 0.1

Score = Callable[[Pack], tuple[torch.Tensor, torch.Tensor]]


def check_against_stock(model: PreTrainedModel, score: Score, device: torch.device) -> None:
    """Raises UnsupportedArchitecture if `score` disagrees with the model's own eager logits."""
    datums = [_datum(length, int(model.config.vocab_size)) for length in (7, 12)]
    with torch.no_grad():
        packed_N, _ = score(build_pack(datums, device))
        model.set_attn_implementation("eager")
        stock_N = torch.cat([_stock_logprobs(model, datum, device) for datum in datums])
        model.set_attn_implementation(IMPLEMENTATION)
    difference = (packed_N.double() - stock_N.double()).abs().mean().item()
    if not difference <= _TOLERANCE.get(model.dtype, _LOW_PRECISION_TOLERANCE):
        raise UnsupportedArchitecture(
            f"{type(model).__name__}: packed logprobs differ from the model's own by {difference:.2g} nats a token"
        )


def _datum(length: int, vocab_size: int) -> Datum:
    ids = (np.arange(1, length + 1) * 7919 % vocab_size).astype(np.int32)
    return Datum(0, ids, np.arange(1, length), np.zeros(length - 1, np.float32))


def _stock_logprobs(model: PreTrainedModel, datum: Datum, device: torch.device) -> torch.Tensor:
    ids_T = torch.from_numpy(datum.ids.astype(np.int64)).to(device)
    logits_TV = model(input_ids=ids_T[None, :-1], use_cache=False).logits[0]
    return logits_TV.float().log_softmax(-1).gather(1, ids_T[1:, None])[:, 0]
