"""Sampled tokens as they are shown: how likely each was, or how far the trainer is from the sampler there, in five
levels that differ in more than their colour."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from server.pages.shared.formats import figure
from store.rollouts import RecordedSample
from store.rollouts.trainer_logprobs import TrainerLogprobs, TrainerLogprobsOf

LEVELS = ((0.9, "90 % and more"), (0.5, "50 to 90 %"), (0.1, "10 to 50 %"), (0.01, "1 to 10 %"), (0.0, "below 1 %"))
"""Least probability of each level, and the level in words."""
GAP_LEVELS = ((0.05, "within 0.05 nats"), (0.2, "up to 0.2"), (0.5, "up to 0.5"), (1.0, "up to 1"), (math.inf, "more"))
"""Largest difference of each level in nats, and the level in words."""
_MOST_TEXT = 60


@dataclass(frozen=True, slots=True)
class Token:
    """One token. `logprob`: the sampler's, in nats, `trainer`: the trainer's; None where it is not on record. `place`
    counts from 1."""

    place: int
    token_id: int
    text: str
    logprob: float | None
    trainer: float | None = None

    @property
    def gap(self) -> float | None:
        """The trainer's logprob less the sampler's."""
        if self.logprob is None or self.trainer is None or not math.isfinite(self.trainer - self.logprob):
            return None
        return self.trainer - self.logprob

    @property
    def gap_level(self) -> int | None:
        """Which of `GAP_LEVELS`."""
        gap = self.gap
        if gap is None:
            return None
        return next(index for index, (most, _) in enumerate(GAP_LEVELS) if abs(gap) <= most)

    @property
    def gap_words(self) -> str:
        """`0.31 nats less likely to the trainer`."""
        if self.gap is None:
            return ""
        way = "less" if self.gap < 0 else "more"
        return (
            f"{figure(abs(self.gap), 2)} nats {way} likely to the trainer" if self.gap else "as likely to the trainer"
        )

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
    """Some of the tokens of an answer: those from `first` on, counted from 0, of `total`. `has_texts`: else ids.
    `has_trainer`: a pass of the trainer went over them."""

    tokens: list[Token]
    first: int
    total: int
    has_texts: bool
    has_trainer: bool

    @property
    def end(self) -> int:
        """How many come before what follows."""
        return self.first + len(self.tokens)


def strip_of(
    sample: RecordedSample, texts: list[str] | None, first: int, most: int, trainer: TrainerLogprobs | None = None
) -> Strip:
    """At most so many tokens of the answer."""
    turn = sample.turn
    total = len(turn.output_ids)
    first = min(first, max(0, total - 1))
    ids = turn.output_ids[first : first + most].tolist()
    logprobs = turn.sampling_logprobs[first : first + most].tolist() or [None] * len(ids)
    named = texts[first : first + most] if texts else [""] * len(ids)
    passed: list[float | None] = [None] * len(ids)
    if trainer is not None:
        passed = trainer.logprobs[first : first + most].tolist()
    tokens = [
        Token(first + index + 1, *known) for index, known in enumerate(zip(ids, named, logprobs, passed, strict=True))
    ]
    return Strip(tokens, first, total, texts is not None, trainer is not None)


def mean_logprob(sample: RecordedSample) -> float | None:
    """Over the whole answer, in nats."""
    logprobs = sample.turn.sampling_logprobs
    return float(logprobs.mean(dtype="float64")) if len(logprobs) else None


def last_passes(samples: Iterable[RecordedSample], kept: TrainerLogprobsOf) -> list[TrainerLogprobs]:
    """One of each operation that the samples' logprobs are from, the last first."""
    found = {one.operation_id: one for sample in samples if (one := kept.get(sample.digest)) is not None}
    return sorted(found.values(), key=lambda one: one.computed_at, reverse=True)
