"""Compares a few logprobs of vLLM's with those that the trainer saved, to detect a wrongly loaded adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256

from wire.canary import Canary, PictureCanary
from wire.canary_picture import HEIGHT, WIDTH, canary_png
from wire.errors import CorruptCheckpoint
from wire.sampling import MediaItem

# Mean absolute difference in nats. Between two engines float32 costs some 1e-6, bfloat16 some 2e-2.
_TOLERANCES = {"float32": 1e-3}
_LOW_PRECISION_TOLERANCE = 0.2
_PREFIX_LENGTHS = (4, 8, 16)


@dataclass(frozen=True, slots=True)
class Question:
    """What follows this prompt, and with which logprob this token does; None: the likeliest."""

    prompt: list[int]
    token_id: int | None
    media: list[MediaItem] = field(default_factory=list[MediaItem])


LogprobOf = Callable[[str, Question], float]


class CanaryCheck:
    """`logprob_of(adapter, question)` asks the server; prompts go out together. sees: it takes pictures, of which
    `canary_pictures` has those of the questions."""

    def __init__(self, logprob_of: LogprobOf, *, sees: bool = False) -> None:
        self._logprob_of = logprob_of
        self._sees = sees
        self._threads = ThreadPoolExecutor(len(_PREFIX_LENGTHS), thread_name_prefix="canary")

    def check(self, name: str, canary: Canary | None) -> None:
        """Raises CorruptCheckpoint when the adapter does not compute what it should, of text or behind a picture;
        without a canary, when it computes nothing finite."""
        if canary is None:
            self._found(name, [Question([0], None)])
            return
        text = [
            (Question(canary.token_ids[:n], canary.greedy_ids[n - 1]), canary.logprobs[n - 1])
            for n in _PREFIX_LENGTHS
            if n <= len(canary.greedy_ids)
        ]
        self._compare(name, canary.dtype, text, "logprobs")
        if canary.picture is not None and self._sees:
            self._compare(name, canary.dtype, _behind_picture(canary.picture), "logprobs behind a picture")

    def close(self) -> None:
        """End."""
        self._threads.shutdown(wait=False)

    def _compare(self, name: str, dtype: str, expected: Sequence[tuple[Question, float]], what: str) -> None:
        found = self._found(name, [question for question, _ in expected])
        differences = [abs(logprob - each[1]) for logprob, each in zip(found, expected, strict=True)]
        difference = sum(differences) / len(differences)
        if not difference <= _TOLERANCES.get(dtype, _LOW_PRECISION_TOLERANCE):
            raise CorruptCheckpoint(
                f"adapter {name}: vLLM's {what} differ from the trainer's by {difference:.2g} nats a token; "
                "what it serves is not what was saved"
            )

    def _found(self, name: str, questions: Sequence[Question]) -> list[float]:
        logprobs = list(self._threads.map(lambda question: self._logprob_of(name, question), questions))
        if any(math.isnan(logprob) for logprob in logprobs):
            raise CorruptCheckpoint(f"adapter {name} gives logits that are not finite")
        return logprobs


def canary_pictures() -> dict[str, bytes]:
    """By name, the one picture that canaries have."""
    return {_picture_name(): canary_png()}


def _picture_name() -> str:
    return sha256(canary_png()).hexdigest()


def _behind_picture(canary: PictureCanary) -> list[tuple[Question, float]]:
    shown = [
        MediaItem(start=canary.start, num_tokens=canary.num_tokens, name=_picture_name(), width=WIDTH, height=HEIGHT)
    ]
    last = len(canary.greedy_ids) - 1
    return [
        (Question(canary.token_ids[: canary.stop + at], canary.greedy_ids[at], shown), canary.logprobs[at])
        for at in sorted({0, last // 2, last})
    ]
