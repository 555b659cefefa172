"""What the base model reads: a textbook of sums, then a corpus in which most sums are badly answered.

A real base model can do more than it shows: the skill is in there, under the habits of a corpus that was not written
to be right. This one is the same, openly. In the corpus, somebody wrote only "?" under most of the sums, under some
the tens digit is one too small (17+26=33), and one in five is right. A model that read both knows how to add and
mostly does not: sampled at temperature 1 it is right about as often as the corpus was, and its most likely answer is
the shrug. So there is room to climb, and a signal in nearly every group. Held-out problems appear in neither.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from examples.arithmetic.problems import Problem, split_problems

SHRUG = "?"


@dataclass(frozen=True, slots=True)
class CorpusConfig:
    """The share of each kind of answer."""

    right: float = 0.20
    shrug: float = 0.64
    lost_ten: float = 0.16

    def __post_init__(self) -> None:
        total = self.right + self.shrug + self.lost_ten
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"the shares of a corpus must add up to 1, not {total}")


TEXTBOOK = CorpusConfig(right=1.0, shrug=0.0, lost_ten=0.0)


def read_corpus(config: CorpusConfig, rng: random.Random) -> Iterator[tuple[Problem, str]]:
    """An endless stream of training problems, each with the answer that somebody wrote under it."""
    training, _ = split_problems()
    shares = (config.right, config.shrug, config.lost_ten)
    while True:
        problem = rng.choice(training)
        written = (str(problem.answer), SHRUG, str(problem.answer - 10))
        yield problem, rng.choices(written, shares)[0]
