"""Pictures in the local sampler: a picture's features from the vision tower, and what the decoder takes with them.

LoRA adapts the text part alone, so that a picture's features are the same under every adapter: they are computed once,
each picture by itself, and kept by digest as long as there is room.
"""

# N tokens of a picture, D hidden size, A axes of positions, T packed tokens

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sampler.pictures.pixels import Pixels
from sampler.tokenizer_files import folder_of
from wire.errors import HeadwayError
from wire.extension import Media, TokenSequence
from wire.picture_rule import FAMILIES, PictureRule, rule_in
from wire.positions import Int64Array, next_position, positions_AN

log = structlog.get_logger(__name__)

_Key = tuple[bytes, int, int]
_NONE: Mapping[str, bytes] = {}


@dataclass(frozen=True, slots=True)
class Features:
    """What the tower makes of one picture: rows in place of its placeholders' embeddings, and of each of the decoder's
    first layers what is added to their hidden states after it (Qwen3-VL's deepstack)."""

    rows_ND: Tensor
    levels: tuple[Tensor, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Of all tensors."""
        return sum(part.nbytes for part in (self.rows_ND, *self.levels))


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What a prompt shows: its pictures, and the bytes of each by name; and where its tokens are. positions_AN: int64.
    next_position: of the token behind it."""

    media: tuple[Media, ...]
    pngs: Mapping[str, bytes]
    positions_AN: Int64Array
    next_position: int

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return self.positions_AN.shape[1]

    def write_positions(self, start: int, into_AT: Int64Array) -> None:
        """Of the tokens from `start` on of a sequence that begins with the prompt."""
        inside = max(0, self.num_prompt - start)
        into_AT[:, :inside] = self.positions_AN[:, start:]
        first = self.next_position + max(0, start - self.num_prompt)
        into_AT[:, inside:] = np.arange(first, first + into_AT.shape[1] - inside)


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens `start` and on of a sequence."""

    ids: Sequence[int]
    start: int
    shown: Shown

    def packed_media(self) -> Iterator[tuple[Media, int]]:
        """Its pictures, and how many of the tokens of each are before the piece. It may begin inside of a run: a prompt
        whose keys and values another has is packed from its last token on."""
        if self.start < self.shown.num_prompt:
            for item in self.shown.media:
                if item.stop > self.start:
                    yield item, max(0, self.start - item.start)


def vision_of(model: PreTrainedModel, base: str, max_bytes: int) -> Vision | None:
    """Of a base whose files say how pictures are read; None for one that takes text alone, with a line in the log where
    it has a tower that is not served."""
    if model.config.model_type not in FAMILIES:
        return None
    try:
        if (rule := rule_in(folder_of(base))) is None:
            raise ValueError("its files have no settings of an image processor")
        return Vision(model, Pixels(base), rule, max_bytes)
    except (OSError, ValueError, LookupError, ImportError) as error:
        log.warning("base_takes_text_alone", base=base, reason=str(error))
        return None


class Vision:
    """The vision tower of a base, and the embeddings of its decoder. From any thread.

    max_bytes: of features that are kept; those of the pictures shown last.
    """

    def __init__(self, model: PreTrainedModel, pixels: Pixels, rule: PictureRule, max_bytes: int) -> None:
        self.rule = rule
        self._model: Any = model
        self._embed: Any = model.get_decoder().get_input_embeddings()
        self._pixels = pixels
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._features: OrderedDict[_Key, Features] = OrderedDict()
        self._num_bytes = 0

    def shown(self, ids: Sequence[int], media: tuple[Media, ...] = (), pngs: Mapping[str, bytes] = _NONE) -> Shown:
        """Of a prompt."""
        sequence = TokenSequence(np.array(ids, np.int32), media)
        return Shown(media, pngs, positions_AN(sequence, self.rule), next_position(sequence, self.rule))

    def two_way(self, shown: Shown) -> tuple[tuple[int, int], ...]:
        """Runs of a prompt in which each token attends to all others."""
        return tuple((item.start, item.stop) for item in shown.media) if self.rule.two_way else ()

    def keeps(self, item: Media) -> bool:
        """Whether the features of this picture are at hand."""
        return _key(item) in self._features

    def features(self, item: Media, png: bytes) -> Features:
        """Of a picture. Raises InvalidRequest for bytes that are no canonical PNG of the item's size."""
        with self._lock:
            if (kept := self._features.get(_key(item))) is not None:
                self._features.move_to_end(_key(item))
                return kept
        features = self._encode(item, png)
        with self._lock:
            self._keep(_key(item), features)
        return features

    def inputs(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """What the decoder takes for these tokens, packed one piece behind the other."""
        ids_T = torch.tensor([token for piece in pieces for token in piece.ids[piece.start :]])
        embeds_TD = self._embed(ids_T)
        positions_AT = np.empty((self.rule.axes, len(ids_T)), np.int64)
        is_picture_T = torch.zeros(len(ids_T), dtype=torch.bool)
        levels = list[tuple[Tensor, ...]]()
        begin = 0
        for piece in pieces:
            end = begin + len(piece.ids) - piece.start
            piece.shown.write_positions(piece.start, positions_AT[:, begin:end])
            for item, skipped in piece.packed_media():
                features = self.features(item, piece.shown.pngs[item.name])
                rows = slice(begin + item.start + skipped - piece.start, begin + item.stop - piece.start)
                embeds_TD[rows] = features.rows_ND[skipped:]
                is_picture_T[rows] = True
                levels.append(tuple(level_ND[skipped:] for level_ND in features.levels))
            begin = end
        inputs: dict[str, Any] = {
            "inputs_embeds": embeds_TD[None],
            "position_ids": self._position_ids(positions_AT),
        }
        if any(levels):
            inputs["visual_pos_masks"] = is_picture_T[None]
            inputs["deepstack_visual_embeds"] = [torch.cat(level) for level in zip(*levels, strict=True)]
        return inputs

    def _position_ids(self, positions_AT: Int64Array) -> Tensor:
        position_ids_AT = torch.from_numpy(positions_AT)
        return position_ids_AT if self.rule.axes == 1 else position_ids_AT[:, None]

    def pixels_of(self, item: Media, png: bytes) -> dict[str, Any]:
        """What transformers' own forward takes of a picture. Raises as `features` does."""
        pixels = self._pixels.of(png, item.width, item.height)
        return {**pixels, "pixel_values": pixels["pixel_values"].to(self._model.dtype)}

    def _encode(self, item: Media, png: bytes) -> Features:
        pixels = self.pixels_of(item, png)
        with torch.inference_mode():
            output = self._model.get_image_features(**pixels)
        levels: Sequence[Sequence[Tensor]] = getattr(output, "deepstack_features", None) or ()
        features = Features(output.pooler_output[0], tuple(level[0] for level in levels))
        if len(features.rows_ND) != item.num_tokens:
            raise HeadwayError(
                f"the tower makes {len(features.rows_ND)} tokens of a picture of {item.width}×{item.height}, and the "
                f"base's rule {item.num_tokens}"
            )
        return features

    def _keep(self, key: _Key, features: Features) -> None:
        """The last one stays, whatever its size."""
        if key in self._features:
            return
        self._features[key] = features
        self._num_bytes += features.num_bytes
        while self._num_bytes > self._max_bytes and len(self._features) > 1:
            self._num_bytes -= self._features.popitem(last=False)[1].num_bytes


def _key(item: Media) -> _Key:
    """With the size that a request says it has: of another one, no features are made."""
    return item.digest, item.width, item.height
