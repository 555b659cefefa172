"""Delays packets to some addresses: `python -m tests.fleet.delay SECONDS OWN_ADDRESS ADDRESS…`, on the host that sends.

The routes to the addresses lead into a TUN device; what arrives there leaves SECONDS later by a raw socket bound to
eth0, whose own routes are untouched. So connections that are open already are delayed as well, and TCP sees a longer
round trip, not a proxy. When the process ends, its device and routes are gone.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections import deque

_DEVICE = b"delayed"
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
READY = "ready"


def main() -> None:
    delay_s, own, *addresses = sys.argv[1:]
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH", _DEVICE, _IFF_TUN | _IFF_NO_PI))
    _ip("link", "set", _DEVICE.decode(), "up")
    for address in addresses:
        _ip("route", "add", f"{address}/32", "dev", _DEVICE.decode(), "src", own)
    sys.stdout.write(READY + "\n")
    sys.stdout.flush()
    _forward(tun, _leaving_by_eth0(), float(delay_s))


def _ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True)


def _leaving_by_eth0() -> socket.socket:
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    out.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    return out


def _forward(tun: int, out: socket.socket, delay_s: float) -> None:
    waiting: deque[tuple[float, bytes]] = deque()
    while True:
        patience = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        if select.select([tun], [], [], patience)[0]:
            waiting.append((time.monotonic() + delay_s, os.read(tun, 65536)))
        while waiting and waiting[0][0] <= time.monotonic():
            _send(out, waiting.popleft()[1])


def _send(out: socket.socket, packet: bytes) -> None:
    if packet[0] >> 4 != 4:  # the device's own IPv6 solicitations
        return
    try:
        out.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
    except OSError as error:  # a full queue loses a packet, as a router's would
        sys.stderr.write(f"lost a packet: {error}\n")


if __name__ == "__main__":
    main()
