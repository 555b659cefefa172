"""Fetches pictures by URL, from hosts that an operator names.

An address that is not public is connected to only where the operator names it too, so that no client looks into the
private network through a name of its own. The address that was checked is the one that is connected to; redirects are
not followed, and no proxy is asked.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection
from functools import cache
from typing import Any

import httpx

from server.process.settings import PictureSettings
from server.values.addresses import is_allowed, is_public
from wire.errors import InvalidRequest, TooLarge

_PORTS = {"http": 80, "https": 443}


async def fetch(settings: PictureSettings, where: str, url: str) -> bytes:
    """The body of the URL. Refusals begin with `where`: InvalidRequest for hosts that are not named or do not answer
    with a body in time, TooLarge."""
    if not settings.hosts:
        raise InvalidRequest(
            f"{where}: pictures are not fetched by URL here; send a data URL: data:image/png;base64,…", param=where
        )
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidRequest(f"{where}: {error}", param=where) from None
    if parsed.scheme not in _PORTS or not parsed.host or parsed.userinfo:
        raise InvalidRequest(f"{where}: must be an http or https URL with a host, without a user", param=where)
    try:
        async with asyncio.timeout(settings.fetch_s):
            address = await _address(settings.hosts, where, parsed)
            return await _body(settings, where, parsed, address)
    except TimeoutError:
        raise InvalidRequest(
            f"{where}: {parsed.host} did not answer within {settings.fetch_s:.0f} s", param=where
        ) from None
    except httpx.HTTPError as error:
        raise InvalidRequest(f"{where}: {parsed.host} did not answer: {type(error).__name__}", param=where) from None


async def _address(hosts: Collection[str], where: str, url: httpx.URL) -> str:
    """Where to connect to: all addresses of the host must be ones that may be."""
    port = url.port or _PORTS[url.scheme]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(url.host, port)
    except (OSError, UnicodeError):
        found = []
    addresses = [str(place[4][0]) for place in found]
    if not addresses or not all(_may_be_fetched_from(hosts, url.host, port, address) for address in addresses):
        # The same for a name that is not known, so that nobody learns the names of a private network.
        raise InvalidRequest(
            f"{where}: pictures are not fetched from {url.host}:{port} here; send a data URL, or ask the operator "
            "(HEADWAY_IMAGE_HOSTS)",
            param=where,
        )
    return addresses[0]


def _may_be_fetched_from(hosts: Collection[str], host: str, port: int, address: str) -> bool:
    is_named = is_allowed(hosts, host, port, address)
    return is_named and (is_public(address) or is_allowed(hosts, address, port, address))


async def _body(settings: PictureSettings, where: str, url: httpx.URL, address: str) -> bytes:
    headers = {
        "Host": url.netloc.decode(),
        "User-Agent": "headway",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
    }
    verify: Any = _certificates() if url.scheme == "https" else False
    async with httpx.AsyncClient(
        verify=verify, trust_env=False, follow_redirects=False, timeout=settings.fetch_s
    ) as http:
        request = http.build_request("GET", url.copy_with(host=address, fragment=None), headers=headers)
        request.extensions["sni_hostname"] = url.host
        reply = await http.send(request, stream=True)
        try:
            if reply.status_code != 200:
                raise InvalidRequest(f"{where}: {url.host} answered {reply.status_code}", param=where)
            return await _bounded(settings.limits.bytes_each, where, reply)
        finally:
            await reply.aclose()


async def _bounded(max_bytes: int, where: str, reply: httpx.Response) -> bytes:
    body = bytearray()
    async for part in reply.aiter_raw():  # a body that is compressed all the same is no picture
        body += part
        if len(body) > max_bytes:
            raise TooLarge(f"{where} is larger than {max_bytes:,} bytes, the most of a picture", param=where)
    if not body:
        raise InvalidRequest(f"{where} is empty: there are no bytes in it", param=where)
    return bytes(body)


@cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)
