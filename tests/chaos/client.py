"""A client that never gives up: each call is sent again, under its Idempotency-Key, until it is answered."""

from __future__ import annotations

import time
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

    def __init__(self, origin: Callable[[], str], headers: dict[str, str], *, with_keys: bool = True) -> None:
        self._origin = origin
        self._headers = headers
        self._with_keys = with_keys
        self._http = httpx.Client(timeout=_ANSWER_S, trust_env=False)

    def call(self, method: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
        """The answer's status and JSON; an error of the client's own making counts as an answer."""
        headers = {**self._headers, **({"Idempotency-Key": key} if key and self._with_keys else {})}
        deadline, last = time.monotonic() + PATIENCE_S, "nothing was sent"
        while time.monotonic() < deadline:
            try:
                reply = self._http.request(method, self._origin() + path, json=body, headers=headers)
                if reply.status_code < 500:
                    return reply.status_code, reply.json()
                last = f"{reply.status_code} {reply.text[:300]}"
            except (httpx.HTTPError, ValueError) as error:
                last = f"{type(error).__name__}: {error}"
            time.sleep(_PAUSE_S)
        raise GaveUp(f"{method} {path} had no answer in {PATIENCE_S:.0f} s; the last was: {last}")

    def expect(self, method: str, path: str, body: Any = None, key: str | None = None) -> Any:
        """The JSON of a call that must succeed."""
        status, answer = self.call(method, path, body, key)
        assert status < 300, f"{method} {path}: {status} {answer}"
        return answer

    def close(self) -> None:
        self._http.close()
