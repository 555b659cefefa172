"""Detects that vLLM's engine hangs. Its API server answers `/health` as long as the engine's process exists, also
when that one is frozen or waits for a GPU that never answers; the sign is whether tokens still come out.
"""

from __future__ import annotations

import time
from typing import Protocol


class TokenSource(Protocol):
    """The part of `VllmClient` that is needed here. Both return or give up within seconds."""

    def num_tokens_so_far(self, url: str) -> float | None:
        """Prompt and output tokens since the server began; None: it does not say."""
        ...

    def generates(self, url: str) -> bool:
        """Whether it samples one token now."""
        ...


class StallWatch:
    """`check` now and then; `stalled_s` is for how long nothing came out although something was wanted."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._num_tokens: float | None = None
        self._moved_at = time.monotonic()

    @property
    def stalled_s(self) -> float:
        """Seconds without progress, as of now. Grows between checks: a busy or slow engine has to be asked often."""
        return time.monotonic() - self._moved_at

    def restart(self) -> None:
        """A new server counts from here."""
        self._num_tokens, self._moved_at = None, time.monotonic()

    def check(self, url: str) -> None:
        """Look at its counters; only where they do not change, ask for a token, which waits behind all other
        requests."""
        num_tokens = self._source.num_tokens_so_far(url)
        moved = num_tokens is not None and num_tokens != self._num_tokens
        self._num_tokens = num_tokens
        if moved or self._source.generates(url):
            self._moved_at = time.monotonic()
