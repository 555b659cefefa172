"""The health check of images, over TLS as well."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.http_servers import serving
from wire.process.tls import TlsSettings, listening_context

HEALTH = Path(__file__).parents[3] / "docker" / "health.py"


class Plane(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def is_well(*words: object, **variables: str) -> bool:
    return not subprocess.run([sys.executable, HEALTH, *map(str, words)], env=variables, timeout=60).returncode


@pytest.fixture
def plain() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Plane)
    with serving(server):
        yield server.server_port


@pytest.fixture
def over_tls(tmp_path: Path) -> Iterator[int]:
    ours = Authority(tmp_path).certify("planes.headway.internal")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Plane)
    context = listening_context(TlsSettings(ours.cert, ours.key))
    assert context is not None
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server):
        yield server.server_port


def test_a_plane_that_answers_is_well_over_tls_or_not(plain: int, over_tls: int, monkeypatch: pytest.MonkeyPatch):
    assert is_well("http", plain)
    assert is_well("https", over_tls)
    assert is_well("http", over_tls, HEADWAY_TLS_CERT="/etc/headway/tls/tls.crt")
    monkeypatch.setattr(Plane, "status", 503)
    assert not is_well("http", plain)
    assert not is_well("https", over_tls)


def test_a_plane_that_does_not_speak_what_is_asked_is_not_well(plain: int, over_tls: int):
    assert not is_well("https", plain)
    assert not is_well("http", over_tls)
