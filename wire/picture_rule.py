"""How a base turns a picture into tokens: how many placeholder ids stand for it, and what else of its files decides
what the model sees. Read from config.json and the settings of its image processor, without torch.

`patches` (Qwen2.5-VL, Qwen3-VL): a picture is resized to whole blocks of merge × merge patches, and each block is a
token. `fixed` (Gemma 3): every picture is resized to one size and has the same number of tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from wire.errors import InvalidRequest

_MAX_ASPECT = 200
_PATCH_OF_TOWER = {"qwen2_5_vl": 14, "qwen3_vl": 16, "gemma3": 16}
"""Where a config does not say."""
FAMILIES = frozenset(_PATCH_OF_TOWER)
"""Of bases with a tower, by the model_type of their config.json."""


@dataclass(frozen=True, slots=True)
class PictureRule:
    """placeholder_id: the id of which each picture has a run. patch: side of a patch in pixels. merge: blocks of
    merge × merge patches are a token. min_pixels, max_pixels: of a resized picture. tokens: of every picture, where
    that is fixed. axes: of positions, 1, or 3 for time, row and column. two_way: tokens of a picture attend to all of
    it.

    template_text: what the base's chat template writes in a picture's place; it is rendered as text_before, the
    placeholders and text_after. preprocessing: which pixels the tower sees; equal for equal settings.
    """

    kind: Literal["patches", "fixed"]
    placeholder_id: int
    patch: int
    merge: int
    min_pixels: int
    max_pixels: int
    tokens: int
    axes: Literal[1, 3]
    two_way: bool
    template_text: str
    text_before: str
    text_after: str
    preprocessing: str

    @classmethod
    def from_json(cls, rule: Mapping[str, Any]) -> Self:
        """Of `to_json`, also of a later version, which may say more."""
        return cls(**{each.name: rule[each.name] for each in fields(cls)})

    def to_json(self) -> dict[str, Any]:
        """The rule as a JSON object."""
        return asdict(self)

    def num_tokens(self, width: int, height: int) -> int:
        """Placeholders of a picture of this size in pixels. Raises InvalidRequest for one that is too narrow."""
        if self.kind == "fixed":
            return self.tokens
        rows, columns = self.grid(width, height)
        return rows * columns

    @property
    def min_tokens(self) -> int:
        """No picture has fewer, unless its sides are so unequal that `max_pixels` cuts them."""
        return (
            self.tokens if self.kind == "fixed" else max(1, math.ceil(self.min_pixels / (self.patch * self.merge) ** 2))
        )

    def num_patches(self, width: int, height: int) -> int:
        """What the tower computes on for a picture of this size."""
        if self.kind == "fixed":
            return self.max_pixels // self.patch**2
        return self.num_tokens(width, height) * self.merge**2

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of tokens; of a rule by patches only."""
        assert self.kind == "patches"
        if max(width, height) > _MAX_ASPECT * min(width, height):
            raise InvalidRequest(
                f"a picture of {width}×{height} pixels: one side is more than {_MAX_ASPECT} times the other"
            )
        block = self.patch * self.merge
        rows, columns = round(height / block), round(width / block)
        if rows * columns * block**2 > self.max_pixels:
            shrink = math.sqrt(width * height / self.max_pixels)
            return max(1, math.floor(height / shrink / block)), max(1, math.floor(width / shrink / block))
        if rows * columns * block**2 < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (width * height))
            return math.ceil(height * grow / block), math.ceil(width * grow / block)
        return rows, columns


def rule_in(folder: Path) -> PictureRule | None:
    """Of a base in a folder. Raises what `rule_of` does, and OSError or ValueError for files that cannot be read."""
    config = _read(folder / "config.json")
    settings = _read(folder / "preprocessor_config.json") or _read(folder / "processor_config.json").get(
        "image_processor", {}
    )
    return rule_of(config, settings)


def rule_of(config: Mapping[str, Any], preprocessor_config: Mapping[str, Any]) -> PictureRule | None:
    """Of a base by its config.json and the settings of its image processor; None for bases of other families, and for
    ones that come without such settings: they take text alone. Raises ValueError for settings that are not served."""
    family = config.get("model_type")
    if family not in _PATCH_OF_TOWER or not config.get("vision_config") or not preprocessor_config:
        return None
    if preprocessor_config.get("do_pan_and_scan"):
        raise ValueError("the image processor is set to do_pan_and_scan: pictures are not cut into crops here")
    if preprocessor_config.get("do_resize") is False:
        raise ValueError("the image processor is set not to resize (do_resize)")
    return _gemma(config, preprocessor_config) if family == "gemma3" else _qwen(config, preprocessor_config)


def _qwen(config: Mapping[str, Any], settings: Mapping[str, Any]) -> PictureRule:
    vision, size = config["vision_config"], settings.get("size") or {}
    patch, merge = int(settings.get("patch_size") or 14), int(settings.get("merge_size") or 2)
    of_tower = _patch(config), int(vision.get("spatial_merge_size", 2))
    if (patch, merge) != of_tower:
        raise ValueError(f"patches of {patch} merged by {merge} do not fit the tower, which takes {of_tower}")
    return PictureRule(
        kind="patches",
        placeholder_id=int(config.get("image_token_id", 151655)),
        patch=patch,
        merge=merge,
        min_pixels=int(settings.get("min_pixels") or size.get("shortest_edge") or 56 * 56),
        max_pixels=int(settings.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280),
        tokens=0,
        axes=3,
        two_way=False,
        template_text="<|image_pad|>",
        text_before="",
        text_after="",
        preprocessing=_digest(settings),
    )


def _gemma(config: Mapping[str, Any], settings: Mapping[str, Any]) -> PictureRule:
    vision, size = config["vision_config"], settings.get("size") or {"height": 224, "width": 224}
    side = int(vision.get("image_size", 224))
    if (size.get("height"), size.get("width")) != (side, side):
        raise ValueError(f"pictures resized to {size} do not fit the tower, which takes {side}×{side}")
    return PictureRule(
        kind="fixed",
        placeholder_id=int(config.get("image_token_index", config.get("image_token_id", 262_144))),
        patch=_patch(config),
        merge=1,
        min_pixels=side * side,
        max_pixels=side * side,
        tokens=int(config.get("mm_tokens_per_image", 256)),
        axes=1,
        two_way=True,
        template_text="<start_of_image>",
        text_before="\n\n<start_of_image>",
        text_after="<end_of_image>\n\n",
        preprocessing=_digest(settings),
    )


def _patch(config: Mapping[str, Any]) -> int:
    return int(config["vision_config"].get("patch_size", _PATCH_OF_TOWER[config["model_type"]]))


def _digest(settings: Mapping[str, Any]) -> str:
    """Pixels are Pillow's, since those of torchvision differ."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return f"pillow-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}
