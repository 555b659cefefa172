"""The picture of canaries: drawn here by everyone who needs it, so that no file carries it.

No image library: trainer and samplers must see the same pixels whatever versions of one they have.
"""

from __future__ import annotations

import struct
import zlib
from functools import cache

import numpy as np

WIDTH, HEIGHT = 64, 48

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB_OF_8_BITS = bytes([8, 2, 0, 0, 0])
_SQUARE = 8


@cache
def canary_png() -> bytes:
    """A canonical PNG: red grows to the right and green downwards, which a turned, mirrored or wrongly scaled picture
    changes, and blue is a chessboard, which other ways to resize blur differently."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    blue = (rows // _SQUARE + columns // _SQUARE) % 2 * 255
    pixels = np.stack([columns * 255 // (WIDTH - 1), rows * 255 // (HEIGHT - 1), blue], axis=-1).astype(np.uint8)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)  # each without a filter
    size = struct.pack(">II", WIDTH, HEIGHT)
    chunks = [(b"IHDR", size + _RGB_OF_8_BITS), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    return _SIGNATURE + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
