"""HTTP calls to planes, and what it means where they fail."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from cli.doctor.clocks import Asked
from cli.doctor.finding import Finding, State

_TIMEOUT_S, _MOST_S = 5.0, 15.0
"""Of each wait, and of a whole call."""
_MOST_READ = 4096
"""Bytes of an answer. Runners are others' machines: what one sends may have no end."""


@dataclass(frozen=True, slots=True)
class Trust:
    """By what certificates are checked. context: with the CAs. name: that they must carry, whatever address is called;
    None: the address."""

    context: ssl.SSLContext
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a plane. clock: when it was asked."""

    status: int
    text: str
    date: str | None
    clock: Asked


class Unreachable(Exception):
    """The finding of a plane that did not answer."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.found)
        self.finding = finding


def call(part: str, method: str, url: str, trust: Trust, token: str | None = None, json: object = None) -> Answer:
    """Raises Unreachable, also where all of it takes too long: what answers may send a byte at a time."""
    asked_at = time.time()
    try:
        status, text, date, asked = asyncio.run(_called(method, url, trust, token, json))
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:  # the last for no URL, too
        raise Unreachable(_failure(part, url, error)) from None
    return Answer(status, text, date, Asked(asked_at, asked))


async def _called(
    method: str, url: str, trust: Trust, token: str | None, json: object
) -> tuple[int, str, str | None, float]:
    """Status, the beginning of the text, the date, and when it was answered."""
    headers = {b"Authorization": f"Bearer {token}".encode()} if token else {}
    extensions = {"sni_hostname": trust.name} if trust.name and url.startswith("https:") else {}
    async with (
        asyncio.timeout(_MOST_S),
        httpx.AsyncClient(verify=trust.context, timeout=_TIMEOUT_S, trust_env=False) as client,
        client.stream(method, url, headers=headers, json=json, extensions=extensions) as reply,
    ):
        answered_at, text = time.time(), await _beginning(reply)
        return reply.status_code, text, reply.headers.get("Date"), answered_at


async def _beginning(reply: httpx.Response) -> str:
    """Of its text, as it was sent: nothing is unpacked."""
    until, read = time.monotonic() + _TIMEOUT_S, b""
    async for piece in reply.aiter_raw(_MOST_READ):
        read += piece
        if len(read) >= _MOST_READ or time.monotonic() > until:
            break
    return read.decode("utf-8", "replace")[:300].strip()


def _failure(part: str, url: str, error: Exception) -> Finding:
    try:
        where = urlsplit(url)
        address = f"{where.hostname}:{where.port or (443 if where.scheme == 'https' else 80)}"
    except ValueError:
        return Finding(part, "reachable", State.NOT_OK, "its address is no URL", "give it another --advertise-url")
    why = str(error).partition("\n")[0] or type(error).__name__
    if isinstance(error, TimeoutError):
        why = f"no whole answer within {_MOST_S:.0f} s"
    if "CERTIFICATE_VERIFY_FAILED" in why:
        remedy = "give --plane-ca the CA that signed it, and --plane-tls-name the name that it carries"
        return Finding(part, "TLS", State.NOT_OK, f"{address}: {why.rpartition('] ')[2]}", remedy)
    if isinstance(error, httpx.RemoteProtocolError) or "SSL" in why:
        remedy = "call it as it listens: https:// (wss://) with a certificate, http:// (ws://) without"
        return Finding(part, "TLS", State.NOT_OK, f"{address} does not speak {where.scheme} ({why})", remedy)
    remedy = "see that it listens on an address that is reached from here, and that no firewall or policy is between"
    return Finding(part, "reachable", State.NOT_OK, f"{address}: {why}", remedy)
