"""URLs of what listens on this machine, put together from host and port."""

from __future__ import annotations

import ipaddress
import socket

_ANY_V4, _ANY_V6 = ("", "0.0.0.0"), ("::",)  # noqa: S104


def http_origin(host: str, port: int, *, is_tls: bool = False) -> str:
    """`http://HOST:PORT`, or `https://…`; an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return f"{'https' if is_tls else 'http'}://{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """The host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def local_host(host: str) -> str:
    """The address under which this machine reaches what listens on `host`."""
    if host in _ANY_V4:
        return "127.0.0.1"
    return "::1" if host in _ANY_V6 else host


def advertised_host(host: str) -> str:
    """The name under which other machines reach what listens on `host`."""
    return socket.gethostname() if host in (*_ANY_V4, *_ANY_V6) else host


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there, of whichever family the host is. Raises OSError."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, *_, address = found[0]
    return socket.create_server(address[:2], family=family)
