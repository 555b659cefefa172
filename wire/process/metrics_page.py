"""`/metrics` for planes that serve no HTTP of their own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from wire.process.origins import is_loopback, listen
from wire.process.tokens import Tokens

_MOST_AT_ONCE = 16
_REQUEST_S = 10.0
METRICS_TOKEN_VARIABLE = "HEADWAY_METRICS_TOKEN"  # noqa: S105 - the variable's name


@contextmanager
def metrics_page(registry: CollectorRegistry, host: str, port: int, tokens: Tokens) -> Generator[int]:
    """Serve the registry at /metrics from a thread until the block ends; yields the port.

    Without a token anyone on this machine may read it. Raises ValueError for another address without a token,
    OSError for a port that is taken.
    """
    if not tokens and not is_loopback(host):
        raise ValueError(f"metrics on {host} need a token: set {METRICS_TOKEN_VARIABLE}, or listen on 127.0.0.1")
    server = _BoundedServer((host, port), _handler(registry, tokens), bind_and_activate=False)
    server.socket.close()  # which is for IPv4 whatever the host is
    server.socket = listen(host, port)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _BoundedServer(ThreadingHTTPServer):
    """So many connections at a time, and so long for each: `timeout` of a handler is for each read alone."""

    daemon_threads = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._room = threading.BoundedSemaphore(_MOST_AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        deadline = threading.Timer(_REQUEST_S, _hang_up, (request,))
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._room.release()


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _handler(registry: CollectorRegistry, tokens: Tokens) -> type[BaseHTTPRequestHandler]:
    class Page(BaseHTTPRequestHandler):
        timeout = _REQUEST_S

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self._answer(404, b"the metrics are at /metrics\n")
            elif tokens and not tokens.accept(self.headers.get("Authorization")):
                self._answer(401, b"send Authorization: Bearer with the token in HEADWAY_METRICS_TOKEN\n")
            else:
                self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)

        def _answer(self, status: int, body: bytes, content_type: str = "text/plain") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
            """Scrapes are no news."""

    return Page
