"""JSON messages with file descriptors over a pair of Unix sockets (SOCK_SEQPACKET: one message, one packet)."""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 128 * 1024
_MAX_DESCRIPTORS = 4
_INT_BYTES = array.array("i").itemsize
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MAX_DESCRIPTORS * _INT_BYTES) + socket.CMSG_SPACE(3 * _INT_BYTES)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends. A packet of the greatest size fits their buffers."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_BYTES)
    return pair


def send(end: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Raises OSError when the other end is gone."""
    packet = json.dumps(message).encode()
    assert len(packet) <= MAX_BYTES
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    end.sendmsg([packet], rights, socket.MSG_NOSIGNAL)


@dataclass(frozen=True, slots=True)
class Received:
    """A message. `descriptors` are the receiver's to close. `pid`: of the sender, as the receiver sees it, where its
    end has SO_PASSCRED."""

    fields: dict[str, Any]
    descriptors: list[int]
    pid: int | None = None


def receive(end: socket.socket) -> Received | None:
    """The next message; None when the other end is gone.

    What is no JSON object is an empty message: the other end may be run by somebody's code. Raises OSError.
    """
    packet, ancillary, _, _ = end.recvmsg(MAX_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    pid = None
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            (pid,) = struct.unpack_from("i", data)
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % _INT_BYTES])
    if not packet:
        close_all(descriptors)
        return None
    try:
        message = json.loads(packet)
    except (ValueError, RecursionError):
        message = {}
    return Received(message if isinstance(message, dict) else {}, list(descriptors), pid)


def close_all(descriptors: Sequence[int]) -> None:
    """Descriptors that nobody wants."""
    for descriptor in descriptors:
        os.close(descriptor)
