"""A base's tower: pixels of a picture by Pillow, and features of these by the model's own modules, without gradient.

torchvision resizes otherwise than Pillow does, so that an environment that has it would see other pixels: the image
processor is pinned to Pillow's, here and in samplers.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
import torch
from PIL import Image
from transformers import AutoImageProcessor, PreTrainedModel
from transformers.utils.hub import cached_file

from trainer.engine.vision.families import FAMILIES
from trainer.engine.vision.features import Features
from wire.errors import InvalidRequest
from wire.extension import Media
from wire.picture_rule import PictureRule, rule_in
from wire.pictures import PictureLimits

log = structlog.get_logger(__name__)

_LIMITS = PictureLimits()
_UNREADABLE = (OSError, EOFError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises for files that are none, or are cut off."""


class Tower:
    """Of a model whose weights are there. pixels: an image processor of transformers."""

    def __init__(self, model: PreTrainedModel, pixels: Any, rule: PictureRule) -> None:
        self.rule = rule
        self._model = model
        self._pixels = pixels
        self._family = FAMILIES[model.config.model_type]

    def encode(self, png: bytes, media: Media) -> Features:
        """Of a canonical PNG. Raises InvalidRequest, naming the picture, unless it is one, and of the size that the
        media item says."""
        picture = opened(png, media)
        with torch.no_grad():
            features = self._family.encode(self._model, self.pixels_of([picture]))
        assert len(features.rows_ND) == media.num_tokens, "the rule is not what the tower does"
        return features

    def pixels_of(self, pictures: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """As the model takes them, on its device and in its dtype."""
        made: Mapping[str, torch.Tensor] = self._pixels(images=list(pictures), return_tensors="pt")
        device, dtype = self._model.device, self._model.dtype
        return {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in made.items()
            if isinstance(tensor, torch.Tensor)  # pyright: ignore[reportUnnecessaryIsInstance]
        }

    def own_inputs(self, pictures: Sequence[Image.Image], is_picture_1T: torch.Tensor) -> dict[str, Any]:
        """See `VisionFamily.own_inputs`."""
        return self._family.own_inputs(self.pixels_of(pictures), is_picture_1T)


def tower_of(model: PreTrainedModel, name_or_path: str, revision: str | None = None) -> Tower | None:
    """The tower of a base, as its files say that pictures are read; None for one that takes text alone, with a line in
    the log where the files have a tower that is not served."""
    if model.config.model_type not in FAMILIES:
        return None
    try:
        config = cached_file(name_or_path, "config.json", revision=revision)
        assert config is not None
        rule = rule_in(Path(config).parent)
        if rule is None:
            raise ValueError("its files have no settings of an image processor")
        pixels = AutoImageProcessor.from_pretrained(
            name_or_path, revision=revision, backend="pil", trust_remote_code=False
        )
    except (OSError, ValueError, LookupError, TypeError, ImportError) as error:
        log.warning("base_takes_text_alone", base=name_or_path, reason=str(error))
        return None
    return Tower(model, pixels, rule)


def opened(png: bytes, media: Media) -> Image.Image:
    """The picture of a canonical PNG. Raises InvalidRequest, naming it."""
    which = f"picture {media.digest.hex()[:12]}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is looked at before any pixel
        try:
            picture = Image.open(io.BytesIO(png), formats=("PNG",))
            if picture.size != (media.width, media.height):
                found = "×".join(map(str, picture.size))
                raise InvalidRequest(f"{which} is {found} pixels, and its input says {media.width}×{media.height}")
            if max(picture.size) > _LIMITS.side or picture.width * picture.height > _LIMITS.pixels_each:
                raise InvalidRequest(f"{which} is larger than pictures may be")
            picture.load()
        except _UNREADABLE as error:
            raise InvalidRequest(f"{which} is no PNG that can be read") from error
    if picture.mode != "RGB":
        raise InvalidRequest(f"{which} is no canonical PNG: its mode is {picture.mode}, not RGB")
    return picture
