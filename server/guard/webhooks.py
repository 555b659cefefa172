"""Telling somebody else's server about an alarm.

Link-local addresses (where clouds keep their credentials), multicast and unspecified ones are refused, and so is this
very machine unless the operator allows it; private networks are not, for that is where a self-hosted receiver is. The
address that was checked is the one that is connected to, redirects are not followed, and no answer is read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from typing import Any

import httpx

from server.settings import GuardSettings
from wire.errors import InvalidRequest

_PORTS = {"http": 80, "https": 443}


class WebhookFailed(Exception):
    """The receiver did not take it. The message names no path or query: they may be secret."""


def check_webhook_url(url: str) -> httpx.URL:
    """The URL, parsed. Raises InvalidRequest unless it is http(s), with a host and without user or password."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidRequest(f"webhook_url: {error}") from error
    if parsed.scheme not in _PORTS or not parsed.host:
        raise InvalidRequest("webhook_url: must be an http or https URL with a host")
    if parsed.userinfo:
        raise InvalidRequest("webhook_url: leave out user and password; put a token into the path if you need one")
    return parsed


async def deliver(settings: GuardSettings, url: str, delivery_id: str, body: Mapping[str, Any]) -> str:
    """POST the body as JSON; who took it. Raises WebhookFailed."""
    parsed = check_webhook_url(url)
    where = f"{parsed.scheme}://{parsed.netloc.decode()}"
    address = await _address(settings, parsed)
    headers = {"Host": parsed.netloc.decode(), "User-Agent": "headway", "Idempotency-Key": delivery_id}
    options: dict[str, Any] = {"timeout": settings.webhook_timeout_s, "trust_env": False, "follow_redirects": False}
    if parsed.scheme == "http":
        options["verify"] = False  # loading certificates is slow, and nothing is encrypted here
    try:
        async with asyncio.timeout(settings.webhook_timeout_s), httpx.AsyncClient(**options) as http:
            request = http.build_request("POST", parsed.copy_with(host=address), json=body, headers=headers)
            request.extensions["sni_hostname"] = parsed.host
            reply = await http.send(request, stream=True)
            await reply.aclose()
    except (httpx.HTTPError, TimeoutError) as error:
        raise WebhookFailed(f"{where}: {type(error).__name__}") from error
    if not reply.is_success:
        raise WebhookFailed(f"{where} answered {reply.status_code}")
    return f"{where} answered {reply.status_code}"


async def _address(settings: GuardSettings, url: httpx.URL) -> str:
    port = url.port or _PORTS[url.scheme]
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise WebhookFailed(f"{url.host}: no such host") from error
    addresses = [str(place[4][0]) for place in found]
    for address in addresses:
        if reason := refused(address, loopback=settings.loopback_webhooks):
            raise WebhookFailed(f"{url.host} is {address}, {reason}, where no webhook goes")
    return addresses[0]


def refused(address: str, *, loopback: bool) -> str | None:
    """Why nothing is sent there; None: it may be."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    if parsed.is_link_local:
        return "a link-local address"
    if parsed.is_multicast or parsed.is_unspecified or (parsed.is_reserved and not parsed.is_loopback):
        return "no address of a host"
    if parsed.is_loopback and not loopback:
        return "this very machine"
    return None
