"""The environment of an agent process: what the SDK needs, and nothing of ours."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from wire.process.lifeline import VARIABLE

_KEPT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PLANES = ("API", "RL", "GATEWAY", "TELEMETRY", "RUNTIME", "WEB")


def child_environment(
    server: str, folder: Path, server_ca: Path | None = None, ours: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """`folder`: its home and working directory; the SDK reads settings from files there, of which there are none. The
    server takes all that the SDK sends at one origin. No proxy stands before environments on this machine.
    `server_ca`: by which its certificate is checked, in place of the system's CAs."""
    kept = {name: ours[name] for name in _KEPT if name in ours}
    direct = [*_LOOPBACK, *filter(None, (ours.get("no_proxy"), ours.get("NO_PROXY")))]
    if (host := urlsplit(server).hostname) in _LOOPBACK:
        direct.append(host)
    no_proxy = ",".join(dict.fromkeys(direct))
    return {
        **kept,
        **_trusted(server, server_ca, ours),
        "HOME": str(folder),
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONUNBUFFERED": "1",
        VARIABLE: "1",
        **{f"HUD_{plane}_URL": server for plane in _PLANES},
        "HUD_TELEMETRY_ENABLED": "true",
        "HUD_SKIP_VERSION_CHECK": "1",
        "HUD_CLI_ANALYTICS_ENABLED": "0",
    }


def _trusted(server: str, server_ca: Path | None, ours: Mapping[str, str]) -> dict[str, str]:
    """By what certificates are checked, where the operator has not said it. The SDK makes an HTTP client for each of a
    rollout's reports, and each client parses a file of 140 authorities, which takes 40 ms of CPU. A folder of them is
    read when a peer shows a certificate, which a server without TLS never does."""
    if server_ca is not None:
        return {"SSL_CERT_FILE": str(server_ca.resolve())}
    folder = ssl.get_default_verify_paths().capath
    is_said = "SSL_CERT_FILE" in ours or "SSL_CERT_DIR" in ours
    return {"SSL_CERT_DIR": folder} if folder and server.startswith("http://") and not is_said else {}
