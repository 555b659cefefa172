"""TLS between planes: what one listens with, and by what it checks the others that it calls.

Nothing here can be told to skip the check of a certificate or of its name.
"""

from __future__ import annotations

import ssl
import time
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from wire.process.origins import is_loopback
from wire.process.replaceable_files import Replaceable
from wire.process.tls_settings import TlsSettings, TrustSettings

log = structlog.get_logger(__name__)

_SAY_EVERY_S = 60.0


def check_files(settings: TlsSettings) -> None:
    """Raises OSError, ValueError where no handshake could succeed."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ValueError("TLS takes a certificate and its key: give --tls-cert and --tls-key, or neither")
    listening_context(settings)


def listening_context(settings: TlsSettings) -> ssl.SSLContext | None:
    """For a listener, which needs no restart when the files are replaced: each handshake gets the certificate that they
    have when it begins, and connections that are open go on. None without TLS. Raises OSError, ValueError."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None or key is None:
        return None
    read = partial(_with_certificate, cert, key)
    files, listening = Replaceable((cert, key), read), read()

    def take_current(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = files.current()

    listening.sni_callback = take_current  # called for each ClientHello, whether it names a server or not
    return listening


class PlaneTrust:
    """How a server connects to samplers and runners. Of one event loop."""

    def __init__(self, settings: TrustSettings | None = None) -> None:
        self._settings = settings or TrustSettings()
        ca = self._settings.plane_ca
        self._contexts = Replaceable([ca] if ca else [], partial(trusting_context, ca))
        self._said: dict[tuple[str, str], float] = {}

    def connection_options(self, host: str, *, is_tls: bool) -> dict[str, Any]:
        """`ssl` and `server_hostname` of asyncio's `create_connection`."""
        if is_tls:
            return {"ssl": self._contexts.current(), "server_hostname": self._settings.plane_tls_name or host}
        if self._settings.plane_ca is not None and not is_loopback(host):
            self._say("plane_without_tls", host, then="its token crosses the network unencrypted; give it --tls-cert")
        return {}

    def note_failure(self, host: str, error: BaseException) -> None:
        """Log why a plane was not believed, once a minute; other failures are their callers' business."""
        if isinstance(error, ssl.SSLError):
            wanted = self._settings.plane_tls_name or host
            self._say("plane_not_trusted", host, error=str(error), name=wanted, then="see --plane-ca, --plane-tls-name")

    def _say(self, event: str, host: str, **facts: Any) -> None:
        now = time.monotonic()
        if now - self._said.get((event, host), -_SAY_EVERY_S) >= _SAY_EVERY_S:
            self._said[event, host] = now
            log.warning(event, host=host, **facts)


def trusting_context(ca: Path | None) -> ssl.SSLContext:
    """For connections to whoever shows a certificate of these CAs, or of the system's, for the name that was called.
    Raises OSError, ValueError."""
    if ca is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cadata=ca.read_text("ascii"))
    except (ssl.SSLError, UnicodeDecodeError):
        raise ValueError(f"{ca} has no CA certificates in PEM form") from None


def _with_certificate(cert: Path, key: Path) -> ssl.SSLContext:
    for file in (cert, key):
        file.read_bytes()  # whose error names the file
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        why = "is not the key of" if error.reason == "KEY_VALUES_MISMATCH" else "cannot be read as the key, in PEM, of"
        raise ValueError(f"{key} {why} the certificate in {cert}") from None
    return context


def _no_password() -> str:
    raise ValueError("the key of --tls-key is encrypted; give one that is not, in a file for its owner alone")
