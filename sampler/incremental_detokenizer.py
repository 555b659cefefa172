"""Incremental detokenizer: emits whole characters, and holds back what may still become a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from sampler.vocabulary import Vocabulary


class IncrementalDetokenizer:
    """Feed tokens, get text that will not be taken back. `stopped` is set once a stop string is complete. The text has
    control tokens by their names, unless `skip_special_tokens`."""

    def __init__(self, vocabulary: Vocabulary, stops: Sequence[str], *, skip_special_tokens: bool = True) -> None:
        self._bytes_of = vocabulary.bytes_of if skip_special_tokens else vocabulary.named_bytes_of
        self._stops = [stop for stop in stops if stop]
        # "replace" gives U+FFFD for what can never become a character, and keeps what still may.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def feed(self, token_id: int, *, may_stop: bool = True) -> str:
        """The text that this token settles. With `may_stop` false, a stop string that it completes is plain text."""
        checked = len(self._held)
        self._held += self._decoder.decode(self._bytes_of(token_id))
        stop_at = self._find_stop(checked) if may_stop else None
        if stop_at is not None:
            self.stopped = True
            settled, self._held = self._held[:stop_at], ""
            return settled
        return self._release(len(self._held) - self._open_length())

    def flush(self) -> str:
        """What was held back, now that nothing follows. Part of a character stays out."""
        return self._release(len(self._held))

    def _release(self, length: int) -> str:
        settled, self._held = self._held[:length], self._held[length:]
        return settled

    def _find_stop(self, checked: int) -> int | None:
        # A match must end in the new characters: those before were let pass (by min_tokens), or hold none.
        found = [self._held.find(stop, max(0, checked - len(stop) + 1)) for stop in self._stops]
        return min((at for at in found if at >= 0), default=None)

    def _open_length(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        return max((_overlap(self._held, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
