"""A client that never gives up: each call is sent again, under its Idempotency-Key, until it is answered."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

PATIENCE_S = 60.0
_ANSWER_S = 4.0
_PAUSE_S = 0.05


class GaveUp(AssertionError):
    """A call had no answer for as long as anything may take."""


class PatientClient:
    """`origin` is asked before each attempt, since a server that was started again listens elsewhere.

    with_keys: False is the client that sends a call whose answer got lost again, word for word.
    """

    def __init__(
        self,
        origin: Callable[[], str],
        headers: dict[str, str],
        *,
        with_keys: bool = True,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._origin = origin
        self._headers = headers
        self._with_keys = with_keys
        self._patience_s = patience_s
        self.troubles: Counter[str] = Counter()
        """How many attempts had no answer, by the status or the error."""
        self.longest_s = 0.0
        """What the slowest call took with all its attempts."""
        self._http = httpx.Client(timeout=_ANSWER_S, trust_env=False)

    def call(self, method: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
        """The answer's status and JSON; an error of the client's own making counts as an answer."""
        headers = {**self._headers, **({"Idempotency-Key": key} if key and self._with_keys else {})}
        began, last = time.monotonic(), "nothing was sent"
        while time.monotonic() < began + self._patience_s:
            try:
                reply = self._http.request(method, self._origin() + path, json=body, headers=headers)
                if reply.status_code < 500:
                    self.longest_s = max(self.longest_s, time.monotonic() - began)
                    return reply.status_code, reply.json()
                self.troubles[str(reply.status_code)] += 1
                last = f"{reply.status_code} {reply.text[:300]}"
            except (httpx.HTTPError, ValueError) as error:
                self.troubles[type(error).__name__] += 1
                last = f"{type(error).__name__}: {error}"
            time.sleep(_PAUSE_S)
        raise GaveUp(f"{method} {path} had no answer in {self._patience_s:.0f} s; the last was: {last}")

    def expect(self, method: str, path: str, body: Any = None, key: str | None = None) -> Any:
        """The JSON of a call that must succeed."""
        status, answer = self.call(method, path, body, key)
        assert status < 300, f"{method} {path}: {status} {answer}"
        return answer

    def close(self) -> None:
        self._http.close()
