"""When a run ends before its last step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from server.runs.settings import StopRules


@dataclass(frozen=True, slots=True)
class Standing:
    """A run after a step. `scores`: held-out scores in order, since it was started or resumed; num_tokens: of all its
    rollouts; seconds: since it was started."""

    reward: float | None
    scores: Sequence[float]
    num_tokens: int
    seconds: float


def drops_in_a_row(scores: Sequence[float], min_delta: float) -> int:
    """How often the score has fallen by more than `min_delta`, up to the last."""
    drops = 0
    for before, after in pairwise(scores):
        drops = drops + 1 if after < before - min_delta else 0
    return drops


def reason_to_stop(rules: StopRules, now: Standing) -> str | None:
    """In words; None: go on."""
    drops = drops_in_a_row(now.scores, rules.min_delta)
    if drops >= rules.held_out_drops:
        fell = " → ".join(f"{score:.4f}" for score in now.scores[-drops - 1 :])
        return f"held_out: the score fell {drops} times in a row ({fell})"
    if rules.reward_at_least is not None and now.reward is not None and now.reward >= rules.reward_at_least:
        return f"reward: {now.reward:.4f} reached {rules.reward_at_least}"
    if rules.max_tokens is not None and now.num_tokens >= rules.max_tokens:
        return f"budget: its rollouts have {now.num_tokens} tokens, and {rules.max_tokens} were allowed"
    if rules.max_seconds is not None and now.seconds >= rules.max_seconds:
        return f"budget: it took {now.seconds:.0f} s, and {rules.max_seconds:.0f} were allowed"
    return None
