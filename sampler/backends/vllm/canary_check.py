"""Compares a few logprobs of vLLM's with those that the trainer saved, to detect a wrongly loaded adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from wire.canary import Canary
from wire.errors import CorruptCheckpoint

# Mean absolute difference in nats. Between two engines float32 costs some 1e-6, bfloat16 some 2e-2.
_TOLERANCES = {"float32": 1e-3}
_LOW_PRECISION_TOLERANCE = 0.2
_PREFIX_LENGTHS = (4, 8, 16)

LogprobOf = Callable[[str, list[int], int | None], float]


class CanaryCheck:
    """`logprob_of(adapter, prompt, token)` asks the server; prompts go out together."""

    def __init__(self, logprob_of: LogprobOf) -> None:
        self._logprob_of = logprob_of
        self._threads = ThreadPoolExecutor(len(_PREFIX_LENGTHS), thread_name_prefix="canary")

    def check(self, name: str, canary: Canary | None) -> None:
        """Raises CorruptCheckpoint when the adapter does not compute what it should; without a canary, when it
        computes nothing finite."""
        if canary is None:
            self._found(name, [([0], None)])
            return
        lengths = [length for length in _PREFIX_LENGTHS if length <= len(canary.greedy_ids)]
        found = self._found(name, [(canary.token_ids[:n], canary.greedy_ids[n - 1]) for n in lengths])
        differences = [abs(logprob - canary.logprobs[n - 1]) for logprob, n in zip(found, lengths, strict=True)]
        difference = sum(differences) / len(differences)
        if not difference <= _TOLERANCES.get(canary.dtype, _LOW_PRECISION_TOLERANCE):
            raise CorruptCheckpoint(
                f"adapter {name}: vLLM's logprobs differ from the trainer's by {difference:.2g} nats a token; "
                "what it serves is not what was saved"
            )

    def close(self) -> None:
        """End."""
        self._threads.shutdown(wait=False)

    def _found(self, name: str, questions: Sequence[tuple[list[int], int | None]]) -> list[float]:
        logprobs = list(self._threads.map(lambda question: self._logprob_of(name, *question), questions))
        if any(math.isnan(logprob) for logprob in logprobs):
            raise CorruptCheckpoint(f"adapter {name} gives logits that are not finite")
        return logprobs
