"""The sums that each base of the demo is asked. Import it after the HUD_* variables are set, as the SDK needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hud import Environment, Taskset

from examples.arithmetic import env as arithmetic_env
from examples.arithmetic import problems as arithmetic
from examples.word_sums import env as word_sums_env
from examples.word_sums import problems as word_sums


class Problem(Protocol):
    """One sum: what is asked, and what is right."""

    @property
    def prompt(self) -> str: ...
    @property
    def answer(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Sums:
    """An environment, its tasks of some problems, the problems to train on and those that are held out, and how many
    tokens an answer may have."""

    env: Environment
    taskset: Callable[[str, Sequence[Any]], Taskset]
    split: Callable[[], tuple[Sequence[Problem], Sequence[Problem]]]
    max_tokens: int


ARITHMETIC = Sums(  # a right answer takes three tokens: two digits and the end of the turn
    arithmetic_env.env, arithmetic_env.taskset, arithmetic.split_problems, max_tokens=6
)
WORD_SUMS = Sums(word_sums_env.env, word_sums_env.taskset, word_sums.split_problems, max_tokens=16)


def sums_for(base_model: str) -> Sums:
    """Bases that have read books are asked in words."""
    return ARITHMETIC if base_model == "tiny-arith" else WORD_SUMS
