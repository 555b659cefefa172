"""What a base's vision tower takes, of a canonical PNG: by the base's own image processor, with Pillow.

Processors of torchvision resize otherwise: their pixels, and so the features, would differ from those of a plane that
has none.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

from PIL import Image
from transformers import AutoImageProcessor

from wire.errors import InvalidRequest
from wire.pictures import PictureLimits

_UNREADABLE = (OSError, EOFError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises for files that are none, or are cut off."""


class Pixels:
    """Of one base. Raises OSError for one without the settings of an image processor."""

    def __init__(self, base: str) -> None:
        self._processor: Any = AutoImageProcessor.from_pretrained(base, backend="pil")

    def of(self, png: bytes, width: int, height: int) -> dict[str, Any]:
        """Tensors, as `get_image_features` of the base's model takes them. Raises InvalidRequest for bytes that are no
        canonical PNG of this size."""
        return dict(self._processor(images=[opened(png, width, height)], return_tensors="pt"))


def opened(png: bytes, width: int, height: int) -> Image.Image:
    """Raises InvalidRequest for bytes that are no canonical PNG of this size."""
    limits = PictureLimits()
    if width * height > limits.pixels_each or max(width, height) > limits.side:
        raise InvalidRequest(f"a picture of {width}×{height} pixels is larger than any that is taken")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is looked at before any pixel
        try:
            picture = Image.open(io.BytesIO(png), formats=("PNG",))
            if (picture.size, picture.mode) != ((width, height), "RGB"):
                shape = f"{picture.width}×{picture.height} {picture.mode}"
                raise InvalidRequest(f"a picture is of {shape}, and not of {width}×{height} RGB, as the request says")
            picture.load()
        except _UNREADABLE as error:
            raise InvalidRequest(f"a picture is no PNG that can be read: {error}") from error
    return picture
