"""Posts alarms to a webhook.

Refused are this very machine under any of its addresses, link-local addresses and others under which clouds keep the
credentials of their machines, and what is no address of a host, unless the operator names them; private networks are
not, for that is where a self-hosted receiver is. It is looked at when a URL is set, and again at each delivery: the
address that was checked is the one that is connected to, redirects are not followed, and no answer is read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import httpx

from server.process.settings import GuardSettings
from wire.errors import InvalidRequest

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORTS = {"http": 80, "https": 443}
_METADATA = [
    ipaddress.ip_network(known)
    for known in (
        "169.254.169.254",  # most clouds
        "169.254.170.2",  # Amazon's containers
        "fd00:ec2::/32",  # Amazon
        "fd20:ce::254",  # Google
        "168.63.129.16",  # Azure
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "fd00:42::42",  # Scaleway
    )
]
_LAST_32_BITS = [ipaddress.ip_network(known) for known in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")]
"""IPv6 addresses that end in an IPv4 address: NAT64, and the compatible ones of old."""
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_NOBODY = ipaddress.ip_network("255.255.255.255/32")


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


def is_allowed(receivers: Collection[str], host: str, port: int, address: str) -> bool:
    """Whether the operator has named it: as `host`, `host:port`, an address, or a network (`10.0.0.0/8`)."""
    plain = ipaddress.ip_address(address.partition("%")[0])
    names = {host.lower(), f"{host.lower()}:{port}", f"[{host.lower()}]:{port}"}
    return any(receiver.lower() in names or plain in _network(receiver) for receiver in receivers)


def why_refused(address: str) -> str | None:
    """Why nothing is sent there; None: it may be."""
    for parsed in _meanings(ipaddress.ip_address(address.partition("%")[0])):
        if any(parsed in network for network in _METADATA):
            return "where a cloud keeps the credentials of its machines"
        if parsed.is_link_local:
            return "a link-local address"
        if parsed.is_loopback or _is_our_own(parsed):
            return "this very machine"
        if parsed.is_multicast or parsed.is_unspecified or parsed.is_reserved or parsed in _THIS_NETWORK:
            return "no address of a host"
    return None


def _meanings(address: _Address) -> Sequence[_Address]:
    """The address, or the IPv4 addresses to which a network translates this IPv6 address."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    embedded = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _LAST_32_BITS) and int(address) > 1:
        embedded.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [found for found in embedded if found is not None] or [address]


def _is_our_own(address: _Address) -> bool:
    """Whether an interface of this machine has it: nothing else can be bound to."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _network(text: str) -> _Network:
    """An address or a network, as one; of any other text an empty one."""
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return _NOBODY
