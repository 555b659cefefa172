"""Moto's server, which refuses requests that are signed by a clock more than a quarter of an hour off, as S3 does:
`python -m tests.fleet.timed_store ADDRESS PORT`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

_ALLOWED = timedelta(minutes=15)
_REFUSAL = b"<?xml version='1.0'?><Error><Code>RequestTimeTooSkewed</Code><Message>The clocks differ.</Message></Error>"


class TimedStore:
    """A WSGI application around another."""

    def __init__(self, store: Callable[..., Iterable[bytes]]) -> None:
        self._store = store

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        signed = environ.get("HTTP_X_AMZ_DATE")
        if signed is None or abs(_time(signed) - datetime.now(UTC)) <= _ALLOWED:
            return self._store(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(_REFUSAL)))])
        return [_REFUSAL]


def _time(signed: str) -> datetime:
    return datetime.strptime(signed, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


if __name__ == "__main__":
    application = TimedStore(DomainDispatcherApplication(create_backend_app))
    run_simple(sys.argv[1], int(sys.argv[2]), application, threaded=True)
