"""A proxy between a client and the box that disturbs some requests: by losing answers, by sending requests twice, by
holding them up until later ones have overtaken them, and by answering in the box's place that it cannot."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.http_servers import serving

DISTURBANCES = (
    "lost answer",  # the box has carried it out, the client does not learn it
    "lost request",
    "duplicate",  # the box gets it twice, one right after the other
    "late duplicate",  # and again when others have come since
    "delay",  # chunks of one call overtake one another
    "408",
    "429",
    "500",
    "500 afterwards",  # the box has carried it out all the same
)
_OF_THE_CONNECTION = {"connection", "transfer-encoding", "keep-alive", "content-length"}
_UNDISTURBED = ("client/config", "client/dynamic_config", "telemetry", "healthz")
"""Where a client gives up for good, or waits for minutes, whatever the server does next."""


class DisturbingProxy:
    """`target`: where the box is now. `disturbs` gets a path and says what befalls this request: one of DISTURBANCES,
    or None."""

    def __init__(self, target: Callable[[], str], disturbs: Callable[[str], str | None]) -> None:
        self.target = target
        self.counts: Counter[str] = Counter()
        self._disturbs = disturbs
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                what = proxy.befalls(self.path)
                if what == "lost request":
                    self.close_connection = True
                    return
                if what in ("408", "429", "500"):
                    self._refuse(int(what))
                    return
                if what == "delay":
                    time.sleep(0.3)
                forward = _Forward(proxy, self.command, self.path, body, dict(self.headers))
                reply = forward.send()
                if what == "duplicate":
                    reply = forward.send()
                if what == "late duplicate":
                    threading.Timer(0.5, forward.send).start()
                if what == "lost answer" or reply is None:
                    self.close_connection = True
                elif what == "500 afterwards":
                    self._refuse(500)
                else:
                    self._answer(*reply)

            do_GET = do_PUT = do_POST = do_DELETE = handle_any

            def _refuse(self, status: int) -> None:
                body = json.dumps({"detail": f"disturbed with {status}"}).encode()
                self._answer(status, {"Content-Type": "application/json", "retry-after-ms": "50"}, body)

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in _OF_THE_CONNECTION:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Nobody reads it."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 512

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that is gone."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def befalls(self, path: str) -> str | None:
        with self._lock:
            what = None if path.endswith(_UNDISTURBED) else self._disturbs(path)
            self.counts[what or "undisturbed"] += 1
            return what


class _Forward:
    """A request, as often as it is sent on."""

    def __init__(self, proxy: DisturbingProxy, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
        self._proxy = proxy
        self._request = (method, path, body, headers)

    def send(self) -> tuple[int, dict[str, str], bytes] | None:
        """None: the box did not answer."""
        upstream = HTTPConnection(self._proxy.target().removeprefix("http://"), timeout=90)
        try:
            upstream.request(*self._request)
            reply = upstream.getresponse()
            return reply.status, dict(reply.headers), reply.read()
        except (OSError, HTTPException):
            return None
        finally:
            upstream.close()


def at_random(seed: int, share: float) -> Callable[[str], str | None]:
    """Disturbs this share of the requests, each in one of the ways."""
    draw = random.Random(seed)

    def disturbs(path: str) -> str | None:
        if draw.random() >= share:
            return None
        # A connection that breaks off while a client waits for an answer costs it seconds of back-off.
        ways = DISTURBANCES[3:] if path.endswith("retrieve_future") else DISTURBANCES
        return draw.choice(ways)

    return disturbs


@contextmanager
def disturbing_proxy(target: Callable[[], str], disturbs: Callable[[str], str | None]) -> Generator[DisturbingProxy]:
    proxy = DisturbingProxy(target, disturbs)
    with serving(proxy.server):
        yield proxy
