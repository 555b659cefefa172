"""Which addresses a server connects to because a client asked for it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Sequence
from typing import TypeAlias

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

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


def is_public(address: str) -> bool:
    """Whether anybody could connect to it from anywhere: neither a private network nor this very machine."""
    plain = ipaddress.ip_address(address.partition("%")[0])
    return why_refused(address) is None and all(meaning.is_global for meaning in [plain, *_meanings(plain)])


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
