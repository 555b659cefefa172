"""How many tokens a second a base trains, from forward passes over a probe of a growing length when it loads."""

from __future__ import annotations

import time

import torch

from trainer.engine.base_model import BaseModel
from trainer.engine.packing import Pack
from trainer.engine.ranks import Ranks
from trainer.engine.self_check import probe

_ENOUGH_S = 0.05
_LENGTHS = (32, 128, 512)
_AGAIN_S = 1.0
"""What took less is timed once more: the machine may be busy with something else."""


def tokens_per_s(base: BaseModel, ranks: Ranks) -> float:
    """Of a training pass over one long sequence a rank: the forward, and a backward that costs as much again, since no
    weight of the base has a gradient. Stops at the first length that takes long enough to be measured, so a large base
    on a CPU is asked for 32 tokens alone. Side effects: none."""
    rate = 0.0
    for length in _LENGTHS:
        if length > base.info.context_length:
            break
        pack = base.pack([probe(length, base.info.vocab_size)])
        seconds = _seconds(base, pack, ranks)
        if seconds < _AGAIN_S:
            seconds = min(seconds, _seconds(base, pack, ranks))
        rate = max(rate, ranks.size * pack.num_tokens / (2 * seconds))
        if seconds > _ENOUGH_S:
            break
    return rate


def _seconds(base: BaseModel, pack: Pack, ranks: Ranks) -> float:
    """Of the slowest rank: all make the same passes next."""
    _synchronize(base)
    started = time.perf_counter()
    with torch.no_grad():
        base.logprobs(pack)
    _synchronize(base)
    return max(ranks.gathered(time.perf_counter() - started))


def _synchronize(base: BaseModel) -> None:
    if base.device.type == "cuda":
        torch.cuda.synchronize(base.device)
