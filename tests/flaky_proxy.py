"""A proxy before an object store that answers some requests itself, with what object stores say on a bad day."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.http_servers import serving

SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
SKEWED = b"<?xml version='1.0'?><Error><Code>RequestTimeTooSkewed</Code><Message>Clocks differ.</Message></Error>"
_MOST_HUNG_S = 60.0
_OF_THE_CONNECTION = {"connection", "transfer-encoding", "keep-alive", "date"}


class FlakyProxy:
    """`trouble` says of each request (method, path) what befalls it: None, "slow down", "skewed" (signed by a clock
    that is far off), "cut" in the middle, "hang": it is not answered until `goes_on` is set, "broken off" in the
    middle of its answer, or "altered" on its way back."""

    def __init__(self, endpoint: str) -> None:
        self.trouble: Callable[[str, str], str | None] = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        self.goes_on = threading.Event()
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                what = proxy.befalls(self.command, self.path)
                if what == "cut":
                    self.rfile.read(1)
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if what == "hang":
                    proxy.goes_on.wait(_MOST_HUNG_S)
                if what == "slow down":
                    self._answer(503, {}, SLOW_DOWN)
                    return
                if what == "skewed":
                    self._answer(403, {}, SKEWED, date_s=time.time() + 3600)
                    return
                upstream = HTTPConnection(endpoint.removeprefix("http://"), timeout=60)
                upstream.request(self.command, self.path, body, dict(self.headers))
                reply = upstream.getresponse()
                content = reply.read()
                upstream.close()
                if what == "altered":
                    content = bytes([content[0] ^ 1]) + content[1:]
                self._answer(reply.status, dict(reply.headers), content, is_whole=what != "broken off")

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

            def _answer(
                self,
                status: int,
                headers: dict[str, str],
                body: bytes,
                date_s: float | None = None,
                *,
                is_whole: bool = True,
            ) -> None:
                self.send_response_only(status)
                self.send_header("Date", self.date_time_string(date_s))
                for name, value in headers.items():
                    if name.lower() not in _OF_THE_CONNECTION and (
                        self.command == "HEAD" or name.lower() != "content-length"
                    ):
                        self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body if is_whole else body[: len(body) // 2])
                if not is_whole:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def befalls(self, method: str, path: str) -> str | None:
        with self._lock:
            self.requests.append((method, path))
            return self.trouble(method, path)


@contextmanager
def flaky_proxy(endpoint: str) -> Iterator[FlakyProxy]:
    proxy = FlakyProxy(endpoint)
    with serving(proxy.server):
        yield proxy
