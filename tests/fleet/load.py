"""Users of a service, until SIGTERM: `python -m tests.fleet.load MODEL USERS TOKENS`, by the SDK's variables.

Each user asks again and again, by turns over a connection of its own that stays open and over a new one, whole and
streamed, and tries nothing twice. What it prints at the end: how many requests there were of each kind, and each that
failed.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

_PAUSE_S = 0.1


class Users:
    """`failures`: kind of request, when in seconds since the beginning, and what went wrong."""

    def __init__(self, model: str, tokens: int) -> None:
        self._body = {
            "model": model,
            "messages": [{"role": "user", "content": "12+30=?"}],
            "max_tokens": tokens,
            "ignore_eos": True,
        }
        self._trusted = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"))
        self._began = time.monotonic()
        self.stopping = threading.Event()
        self.done: Counter[str] = Counter()
        self.failures: list[tuple[str, float, str]] = []
        self.longest_s = 0.0

    def ask(self) -> None:
        """As one user, until they stop."""
        kinds: list[tuple[str, Callable[[httpx.Client], None]]] = [
            ("whole", self._whole),
            ("streamed", self._streamed),
            ("listed", self._listed),
        ]
        with self._client() as kept:
            while not self.stopping.is_set():
                for kind, request in kinds:
                    self._try(f"{kind}, kept connection", request, kept)
                    with self._client() as new:
                        self._try(f"{kind}, new connection", request, new)
                    self.stopping.wait(_PAUSE_S)

    def _try(self, kind: str, request: Callable[[httpx.Client], None], client: httpx.Client) -> None:
        start = time.monotonic()
        try:
            request(client)
            self.done[kind] += 1
        except (httpx.HTTPError, ValueError) as error:
            self.failures.append((kind, round(start - self._began, 2), f"{type(error).__name__}: {error}"))
        self.longest_s = max(self.longest_s, time.monotonic() - start)

    def _whole(self, client: httpx.Client) -> None:
        reply = client.post("/v1/chat/completions", json=self._body)
        if reply.status_code != 200:
            raise ValueError(f"{reply.status_code} {reply.text[:300]}")

    def _streamed(self, client: httpx.Client) -> None:
        body = {**self._body, "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            lines = [line for line in reply.iter_lines() if line]
        if reply.status_code != 200 or lines[-1] != "data: [DONE]":
            raise ValueError(f"{reply.status_code}, the stream ended with {lines[-1:]}")

    def _listed(self, client: httpx.Client) -> None:
        reply = client.get("/v2/models")
        if reply.status_code != 200:
            raise ValueError(f"{reply.status_code} {reply.text[:300]}")

    def _client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {os.environ['HUD_API_KEY']}"}
        origin = os.environ["HUD_API_URL"]
        return httpx.Client(base_url=origin, headers=headers, timeout=120, trust_env=False, verify=self._trusted)


def main() -> None:
    model, number, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    users = Users(model, tokens)
    signal.signal(signal.SIGTERM, lambda *_: users.stopping.set())
    threads = [threading.Thread(target=users.ask) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said: dict[str, Any] = {"done": users.done, "failures": users.failures, "longest_s": users.longest_s}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
