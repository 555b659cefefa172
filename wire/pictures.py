"""Pictures as every plane knows them: by the SHA-256 of their canonical PNG, and how much of them a request may bring.

A canonical picture is an RGB PNG of 8 bits without transparency, orientation or metadata: the server makes it of
whatever was sent, so that no other plane decodes anything else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile("[0-9a-f]{64}")
_SCHEME = "sha256:"

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Picture:
    """name: 64 hexadecimal digits, the SHA-256 of the canonical PNG. width, height: in pixels."""

    name: str
    width: int
    height: int

    @property
    def digest(self) -> bytes:
        """The name as 32 bytes."""
        return bytes.fromhex(self.name)

    @property
    def location(self) -> str:
        """The name as pointers on wires have it."""
        return location_of(self.name)


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What a request may bring. per_request: pictures, repeats included. bytes_each, bytes_in_all: as they were sent,
    after base64. pixels_each: width × height. side: the longer one, in pixels."""

    per_request: int = 64
    bytes_each: int = 20 * MIB
    bytes_in_all: int = 100 * MIB
    pixels_each: int = 40_000_000
    side: int = 16_384


def is_name(value: str) -> bool:
    """Whether it is 64 hexadecimal digits in lower case."""
    return _NAME.fullmatch(value) is not None


def location_of(name: str) -> str:
    """`sha256:<name>`."""
    return _SCHEME + name


def name_in(location: str) -> str | None:
    """The name in `sha256:<name>`; None for anything else."""
    name = location.removeprefix(_SCHEME)
    return name if location.startswith(_SCHEME) and is_name(name) else None
