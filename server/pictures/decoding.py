"""Any picture as the one PNG that stands for it: RGB of 8 bits, upright, laid on white, without metadata.

Decoders of JPEG differ, and so do those who read a picture in what they do about rotation, alpha and 16 bits. After
this, every plane decodes the same PNG, and equal bytes are equal pixels. A PNG that is one already stays as it is, byte
for byte. Colour profiles are ignored. Imported by the decoder process alone: it reads strangers' bytes with Pillow.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from wire.errors import HeadwayError, InvalidRequest, TooLarge
from wire.pictures import PictureLimits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_ASPECT = 200
"""Longer side over shorter side; image processors refuse more."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_COMPRESSION = 6
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation. 1, and whatever is none of them, is upright."""
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_NOT_READ = "is no picture that is read here: PNG, JPEG, WebP, GIF or BMP"


@dataclass(frozen=True, slots=True)
class Canonical:
    """A picture's PNG, and its size in pixels."""

    png: bytes
    width: int
    height: int


def canonical(data: bytes, limits: PictureLimits, *, longest_side: int | None = None) -> Canonical:
    """The picture that the bytes are, scaled down until its longer side has `longest_side` pixels at most.

    Raises InvalidRequest for what is no picture of FORMATS, or moves, or is broken or too long and thin, and TooLarge
    beyond the limits; sizes are looked at before any pixel is decoded. Messages are the rest of a sentence whose
    subject is the picture.
    """
    with _opened(data, limits) as image:
        upright = _orientation(image)  # of a plain PNG none
        is_canonical = image.format == "PNG" and _is_plain_png(data)
        try:
            image.load()
        except MemoryError:
            raise
        except Exception as error:  # each format has errors of its own
            raise InvalidRequest(f"is broken or cut off: {_reason(error)}") from None
        if is_canonical and (longest_side is None or max(image.size) <= longest_side):
            return Canonical(data, *image.size)
        pixels = _on_white(image, data)
    if upright is not None:
        pixels = pixels.transpose(upright)
    if longest_side is not None:
        pixels.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    return Canonical(_encoded(pixels, limits), *pixels.size)


def _opened(data: bytes, limits: PictureLimits) -> Image.Image:
    Image.MAX_IMAGE_PIXELS = limits.pixels_each
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_size(image.size, limits)
            moves = image.format != "MPO" and getattr(image, "is_animated", False)  # a phone's MPO begins with its JPEG
    except HeadwayError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise TooLarge(f"has more than {limits.pixels_each:,} pixels; scale it down") from None
    except UnidentifiedImageError:
        raise InvalidRequest(_NOT_READ) from None
    except MemoryError:
        raise
    except Exception as error:
        raise InvalidRequest(f"is broken: {_reason(error)}") from None
    if moves:
        raise InvalidRequest("moves: send one frame of it")
    return image


def _check_size(size: tuple[int, int], limits: PictureLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InvalidRequest("has no pixels")
    if width * height > limits.pixels_each or max(size) > limits.side:
        raise TooLarge(
            f"is {width} × {height} pixels: at most {limits.pixels_each:,}, and {limits.side:,} on a side, are taken; "
            "scale it down"
        )
    if max(size) > MAX_ASPECT * min(size):
        raise InvalidRequest(f"is {width} × {height} pixels: one side may be {MAX_ASPECT} times the other at most")


def _orientation(image: Image.Image) -> Image.Transpose | None:
    """How to turn it upright; None where it is, or where its EXIF cannot be read."""
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return None


def _on_white(image: Image.Image, data: bytes) -> Image.Image:
    """RGB of a loaded picture."""
    depth, colour = _png_depth(data) if image.format == "PNG" else (8, None)
    transparency: Any = image.info.get("transparency")
    if transparency is not None and depth == 16 and colour == 2:
        raise InvalidRequest("is a PNG of 16 bits with a transparent colour: send 8 bits, or an alpha channel")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _of_16_bits(image, transparency)
    if transparency is not None and image.mode == "L" and depth in (2, 4):
        image.info["transparency"] = int(transparency) * 255 // (2**depth - 1)  # Pillow scales the pixels alone
    if image.mode in _WITH_ALPHA or (transparency is not None and image.mode in ("1", "L", "P", "RGB")):
        colours = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colours).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _of_16_bits(image: Image.Image, transparency: Any) -> Image.Image:
    """Grey of 16 bits: the upper 8 of them. Pillow's own conversion clips."""
    values = np.asarray(image)
    grey = np.clip(values >> 8, 0, 255).astype(np.uint8)
    if isinstance(transparency, int):
        grey = np.where(values == transparency, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def _encoded(image: Image.Image, limits: PictureLimits) -> bytes:
    plain = Image.new("RGB", image.size)
    plain.paste(image)  # nothing of the picture's metadata goes along
    encoded = io.BytesIO()
    plain.save(encoded, "PNG", compress_level=_COMPRESSION)
    if encoded.tell() > limits.bytes_each:
        raise TooLarge(
            f"takes {encoded.tell():,} bytes as a PNG, in which it is kept; at most {limits.bytes_each:,} are taken: "
            "scale it down"
        )
    return encoded.getvalue()


def _is_plain_png(data: bytes) -> bool:
    """Whether a PNG is RGB of 8 bits, and holds nothing but its pixels.

    Raises InvalidRequest for one without an end, and for chunks that decide pixels and are not what their checksum
    says: Pillow looks at neither.
    """
    chunks, at = list[bytes](), len(_SIGNATURE)
    while chunks[-1:] != [b"IEND"]:
        length, chunk = struct.unpack_from(">I4s", data, at) if at + 12 <= len(data) else (len(data), b"")
        end = at + 8 + length
        if end + 4 > len(data):
            raise InvalidRequest("is broken or cut off: its PNG has no end")
        if chunk in _PIXELS and zlib.crc32(memoryview(data)[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise InvalidRequest(f"is broken: the checksum of its {chunk.decode()} is wrong")
        chunks.append(chunk)
        at = end + 4
    if chunks[0] != b"IHDR" or chunks.count(b"IHDR") > 1:
        raise InvalidRequest("is broken: its PNG has no header, or several")
    return at == len(data) and _png_depth(data) == (8, 2) and set(chunks[1:-1]) == {b"IDAT"}


def _png_depth(data: bytes) -> tuple[int, int]:
    """Bits a channel, and the colour type, of a PNG."""
    return data[24], data[25]


def _reason(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
