"""Sampled tokens as they are shown: how likely each was, in five levels that differ in more than their colour."""

from __future__ import annotations

import math
from dataclasses import dataclass

from server.pages.formats import figure
from store.rollouts import RecordedSample

LEVELS = ((0.9, "90 % and more"), (0.5, "50 to 90 %"), (0.1, "10 to 50 %"), (0.01, "1 to 10 %"), (0.0, "below 1 %"))
"""Least probability of each level, and the level in words."""
_MOST_TEXT = 60


@dataclass(frozen=True, slots=True)
class Token:
    """One token. `logprob`: the sampler's, in nats; None where it is not on record. `place` counts from 1."""

    place: int
    token_id: int
    text: str
    logprob: float | None

    @property
    def level(self) -> int | None:
        """Which of `LEVELS`."""
        if self.logprob is None:
            return None
        return next(index for index, (least, _) in enumerate(LEVELS) if self.probability >= least)

    @property
    def probability(self) -> float:
        """Of a known logprob; 0 of one that is no number."""
        if self.logprob is None or not math.isfinite(self.logprob):
            return 0.0
        return math.exp(min(self.logprob, 0.0))

    @property
    def percent(self) -> str:
        """`31.2 %`."""
        return f"{figure(100 * self.probability, 3)} %"

    @property
    def shown(self) -> str:
        """Its text with line breaks and the like made visible; its id where the text is not known."""
        text = self.text[:_MOST_TEXT] + ("…" if len(self.text) > _MOST_TEXT else "")
        text = text.replace("\r", "␍").replace("\n", "⏎").replace("\t", "⇥")
        return text or f"#{self.token_id}"

    @property
    def breaks(self) -> bool:
        """Whether a line ends here."""
        return "\n" in self.text


@dataclass(frozen=True, slots=True)
class Strip:
    """Some of the tokens of an answer: those from `first` on, counted from 0, of `total`. `has_texts`: else ids."""

    tokens: list[Token]
    first: int
    total: int
    has_texts: bool

    @property
    def end(self) -> int:
        """How many come before what follows."""
        return self.first + len(self.tokens)


def strip_of(sample: RecordedSample, texts: list[str] | None, first: int, most: int) -> Strip:
    """At most so many tokens of the answer."""
    turn = sample.turn
    total = len(turn.output_ids)
    first = min(first, max(0, total - 1))
    ids = turn.output_ids[first : first + most].tolist()
    logprobs = turn.sampling_logprobs[first : first + most].tolist() or [None] * len(ids)
    named = texts[first : first + most] if texts else [""] * len(ids)
    tokens = [
        Token(first + index + 1, token_id, text, logprob)
        for index, (token_id, text, logprob) in enumerate(zip(ids, named, logprobs, strict=True))
    ]
    return Strip(tokens, first, total, texts is not None)


def mean_logprob(sample: RecordedSample) -> float | None:
    """Over the whole answer, in nats."""
    logprobs = sample.turn.sampling_logprobs
    return float(logprobs.mean(dtype="float64")) if len(logprobs) else None
