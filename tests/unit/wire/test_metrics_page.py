"""The page of a plane that serves no HTTP of its own."""

from __future__ import annotations

import socket
import time

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from wire.process import metrics_page as page
from wire.process.metrics_page import metrics_page
from wire.process.tokens import Tokens


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("things", "Things", registry=registry).inc()
    return registry


def get(port: int, path: str = "/metrics", token: str | None = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.get(f"http://127.0.0.1:{port}{path}", headers=headers, trust_env=False)


def test_the_token_is_asked_for(registry: CollectorRegistry):
    with metrics_page(registry, "127.0.0.1", 0, Tokens("secret")) as port:
        assert get(port).status_code == 401
        assert get(port, token="other").status_code == 401
        assert "things_total 1.0" in get(port, token="secret").text
        assert get(port, "/other", "secret").status_code == 404


def test_without_a_token_it_is_for_this_machine_alone(registry: CollectorRegistry):
    with metrics_page(registry, "127.0.0.1", 0, Tokens()) as port:
        assert get(port).status_code == 200
    with pytest.raises(ValueError, match="HEADWAY_METRICS_TOKEN"), metrics_page(registry, "0.0.0.0", 0, Tokens()):
        pass


def test_requests_that_never_finish_end_and_are_few(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page, "_REQUEST_S", 1.0)
    monkeypatch.setattr(page, "_MOST_AT_ONCE", 3)
    with metrics_page(registry, "127.0.0.1", 0, Tokens()) as port:
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
        ended, until = set[socket.socket](), time.monotonic() + 30
        while len(ended) < len(held):
            assert time.monotonic() < until
            for connection in set(held) - ended:
                connection.settimeout(0.01)
                try:
                    connection.sendall(b"x")  # a trickle is no progress
                    if not connection.recv(100):
                        ended.add(connection)
                except TimeoutError:
                    continue
                except OSError:
                    ended.add(connection)
        assert get(port).status_code == 200
        for connection in held:
            connection.close()
