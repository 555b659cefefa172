"""Carries out a probe or a hook: an exec in the container, or a request to it from its own host, as a kubelet's is."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from tests.fleet.launching import Container
from tests.fleet.network import Host


def is_well(
    action: Mapping[str, Any], container: Container, host: Host, ports: Mapping[str, int], within_s: float
) -> bool:
    """Whether the action succeeds within that time. ports: of the container, by name."""
    [(kind, what)] = action.items()
    try:
        match kind:
            case "exec":
                return container.execute(what["command"], within_s).returncode == 0
            case "httpGet":
                return 200 <= _status(what, host, _port(what, ports), within_s) < 400
            case "tcpSocket":
                _connect(host, _port(what, ports), within_s).close()
                return True
            case "sleep":
                time.sleep(min(within_s, what["seconds"]))
                return True
            case _:
                raise ValueError(f"{kind} is not known here")
    except (OSError, http.client.HTTPException, subprocess.TimeoutExpired):
        return False


def _port(what: Mapping[str, Any], ports: Mapping[str, int]) -> int:
    return what["port"] if isinstance(what["port"], int) else ports[what["port"]]


def _connect(host: Host, port: int, within_s: float) -> socket.socket:
    with host.inside():
        return socket.create_connection((host.address, port), timeout=within_s)


def _status(what: Mapping[str, Any], host: Host, port: int, within_s: float) -> int:
    connection = http.client.HTTPConnection(host.address, port, timeout=within_s)
    headers = {header["name"]: header["value"] for header in what.get("httpHeaders", ())}
    with contextlib.closing(connection):
        connection.sock = _connect(host, port, within_s)
        if what.get("scheme", "HTTP") == "HTTPS":  # whose certificate a kubelet does not check
            connection.sock = ssl._create_unverified_context().wrap_socket(connection.sock)
        connection.request("GET", what.get("path", "/"), headers=headers)
        return connection.getresponse().status
