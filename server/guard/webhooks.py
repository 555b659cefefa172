"""Posts alarms to a webhook.

Refused are this very machine under any of its addresses, link-local addresses and others under which clouds keep the
credentials of their machines, and what is no address of a host, unless the operator names them; private networks are
not, for that is where a self-hosted receiver is. It is looked at when a URL is set, and again at each delivery: the
address that was checked is the one that is connected to, redirects are not followed, and no answer is read.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Any

import httpx

from server.process.settings import GuardSettings
from server.values.addresses import is_allowed, why_refused
from wire.errors import InvalidRequest

_PORTS = {"http": 80, "https": 443}


class WebhookFailed(Exception):
    """The receiver did not take it. The message names no path or query: they may be secret."""


class Refused(WebhookFailed):
    """It is at an address to which nothing is sent."""


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


async def check_receiver(settings: GuardSettings, url: str) -> None:
    """Raises InvalidRequest for a URL to which nothing would be sent. A name that is not known yet may be later."""
    parsed = check_webhook_url(url)
    try:
        async with asyncio.timeout(settings.webhook_timeout_s):
            await _address(settings, parsed)
    except Refused as refused:
        raise InvalidRequest(f"webhook_url: {refused}") from None
    except (WebhookFailed, TimeoutError):
        return


async def _address(settings: GuardSettings, url: httpx.URL) -> str:
    """Where to connect to. Raises Refused if any address of the host is one to which nothing is sent."""
    port = url.port or _PORTS[url.scheme]
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise WebhookFailed(f"{url.host}: no such host") from error
    addresses = [str(place[4][0]) for place in found]
    for address in addresses:
        reason = why_refused(address)
        if reason and not is_allowed(settings.webhook_receivers, url.host, port, address):
            raise Refused(
                f"{url.host} is {address}, {reason}, where no webhook goes; an operator can allow it "
                f"(HEADWAY_WEBHOOK_RECEIVERS={url.host})"
            )
    return addresses[0]
