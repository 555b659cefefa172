"""Short prompts by which the packed way is held against transformers' own forward when a base loads.

They catch what an architecture does that nobody thought of here.
"""

# T tokens, V vocabulary

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import structlog
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from sampler.backends.local.adapter_files import Adapter
from sampler.backends.local.attention import UnsupportedBase
from sampler.backends.local.base_model import plain_logits
from sampler.backends.local.kv_cache import SlotCache
from sampler.backends.local.packed_step import PackedModel
from sampler.backends.local.vision import Shown, Vision
from wire.extension import Media

log = structlog.get_logger(__name__)

_NUM_IDS, _NUM_BEFORE, _NUM_BEHIND = 4, 2, 3
_WIDTH, _HEIGHT = 64, 48


@dataclass(frozen=True, slots=True)
class Probe:
    """Tokens, and the logits [T, V] of transformers' own forward after each. `shown`: what the prompt shows that they
    begin with; None: they are text, and any two and more of them a prompt."""

    ids: Sequence[int]
    expected_TV: Tensor
    shown: Shown | None = None


@dataclass(slots=True)
class _Row:
    ids: list[int]
    adapter: Adapter
    shown: Shown | None
    cached: int = 0
    row: int = 0


class Probes:
    """Of a base as transformers computes it, before its attention is replaced. vision: of one that sees."""

    def __init__(self, model: PreTrainedModel, vision: Vision | None) -> None:
        ids = list(_text_ids(vision))
        self._text = Probe(ids, plain_logits(model, ids))
        self._picture = _picture_probe(model, vision, ids) if vision is not None else None

    def require_exact(self, packed: PackedModel, cache: SlotCache) -> bool:
        """Whether it computes pictures rightly, too; where not, that is logged. Raises UnsupportedBase for text."""
        _require_exact(packed, cache, self._text)
        if self._picture is None:
            return False
        try:
            _require_exact(packed, cache, self._picture)
        except UnsupportedBase as error:
            log.warning("base_takes_text_alone", reason=str(error))
            return False
        return True


def _text_ids(vision: Vision | None) -> range | list[int]:
    if vision is None:
        return range(_NUM_IDS)
    return [token_id for token_id in range(_NUM_IDS + 1) if token_id != vision.rule.placeholder_id][:_NUM_IDS]


def _picture_probe(model: PreTrainedModel, vision: Vision, text: list[int]) -> Probe:
    """A picture between text; what is behind the first of that is sampled, as it were."""
    rule, png = vision.rule, _gradient()
    num_tokens = rule.num_tokens(_WIDTH, _HEIGHT)
    item = Media(_NUM_BEFORE, num_tokens, sha256(png).digest(), _WIDTH, _HEIGHT)
    ids = [*text[:_NUM_BEFORE], *[rule.placeholder_id] * num_tokens, *text[:_NUM_BEHIND]]
    is_picture = (torch.tensor([ids]) == rule.placeholder_id).long()
    kinds = {"mm_token_type_ids" if rule.axes == 3 else "token_type_ids": is_picture}
    expected_TV = plain_logits(model, ids, **vision.pixels_of(item, png), **kinds)
    return Probe(ids, expected_TV, vision.shown(ids[: item.stop + 1], (item,), {item.name: png}))


def _gradient() -> bytes:
    """A PNG of colours that change from left to right and from above to below."""
    picture = Image.merge(
        "RGB", [Image.linear_gradient("L").rotate(turn).resize((_WIDTH, _HEIGHT)) for turn in (0, 90, 180)]
    )
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()


def _require_exact(packed: PackedModel, cache: SlotCache, probe: Probe) -> None:
    """A prompt, then a token at a time."""
    tolerance = 1e-3 if cache.slots_2NRKSE.dtype == torch.float32 else 0.1
    try:
        error = _largest_error(packed, cache, probe)
        if probe.shown is None:
            packed.check_head(probe.ids, probe.expected_TV, tolerance)
    except RuntimeError as failure:
        raise UnsupportedBase(f"the local sampler cannot compute this base: {failure}") from failure
    if not error <= tolerance * float(probe.expected_TV.abs().max()):
        what = "logits" if probe.shown is None else "logits behind pictures"
        raise UnsupportedBase(f"the local sampler does not reproduce this base's {what}; use another backend")


def _largest_error(packed: PackedModel, cache: SlotCache, probe: Probe) -> float:
    row = _Row(ids=[], adapter=Adapter("probe", {}), shown=probe.shown)
    errors: list[float] = []
    with torch.inference_mode():
        cache.reserve(1, len(probe.ids))
        for num_tokens in range(probe.shown.num_prompt if probe.shown else 2, len(probe.ids) + 1):
            row.ids = list(probe.ids[:num_tokens])
            logits_V = packed.forward([row], num_rows=1)[0].float()
            errors.append(float((logits_V - probe.expected_TV[num_tokens - 1]).abs().max()))
    return float(torch.tensor(errors).max())  # NaN, if there is one
