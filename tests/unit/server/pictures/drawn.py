"""Pictures to be decoded."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

_BLOCK = 1 << 20


def gradient(width: int = 40, height: int = 24) -> Image.Image:
    """No two of its corners are alike."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green, blue = rows * 255 // max(1, height - 1), columns * 255 // max(1, width - 1), (rows + columns) % 256
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


def png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of these chunks behind its header."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in [(b"IHDR", header), *chunks, (b"IEND", b"")])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A black square of a few kilobytes."""
    return png(side, side, (b"IDAT", _compressed_zeros((1 + side * 3) * side)))


def _compressed_zeros(length: int) -> bytes:
    """As zlib's, without compressing hundreds of megabytes: blocks that refer to nothing before them, repeated."""
    compressor = zlib.compressobj(9, wbits=-15)
    block = compressor.compress(bytes(_BLOCK)) + compressor.flush(zlib.Z_FULL_FLUSH)
    end = compressor.compress(bytes(length % _BLOCK)) + compressor.flush()
    adler32 = (length % 65521) << 16 | 1
    return b"\x78\xda" + block * (length // _BLOCK) + end + struct.pack(">I", adler32)
