"""What this base model reads: pictures with what is on them, then pictures under most of which somebody shrugged.

As in the arithmetic base, the skill is in there, under the habits of a corpus. In the corpus somebody wrote only "?"
under most of the pictures, under some the second digit is one too large (47 for 46), and one in five is right. A model
that read both knows the digits and mostly does not say them. Held-out numbers appear in neither.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from examples.pictures.drawing import split_numbers

SHRUG = "?"


@dataclass(frozen=True, slots=True)
class CorpusConfig:
    """The share of each kind of answer."""

    right: float = 0.20
    shrug: float = 0.64
    misread: float = 0.16

    def __post_init__(self) -> None:
        total = self.right + self.shrug + self.misread
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"the shares of a corpus must add up to 1, not {total}")


TEXTBOOK = CorpusConfig(right=1.0, shrug=0.0, misread=0.0)


def read_corpus(config: CorpusConfig, rng: random.Random) -> Iterator[tuple[int, str]]:
    """An endless stream of training numbers, each with the answer that somebody wrote under its picture."""
    training, _ = split_numbers()
    shares = (config.right, config.shrug, config.misread)
    while True:
        tens, ones = divmod(rng.choice(training), 10)
        written = (f"{tens}{ones}", SHRUG, f"{tens}{(ones + 1) % 10}")
        yield 10 * tens + ones, rng.choices(written, shares)[0]
