"""Compares a base's packed logprobs and gradients with transformers' own on sequences with pictures, when it loads.

As `trainer.engine.self_check`, whose words and tolerances are these. What could be wrong beside text: which picture's
features a run gets, where text and pictures are for rotary embeddings, who sees whom inside of a run, and the levels
that are added behind the first layers. The model itself is given pixels, and counts its placeholders.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel

from trainer.engine.frozen_linears import FrozenLinears
from trainer.engine.gathers import Gathers
from trainer.engine.ranks import Ranks
from trainer.engine.self_check import MakePack, Score, Shown, disagreement, probe
from trainer.engine.text_part import text_config
from trainer.engine.vision.sight import Sight
from trainer.engine.vision.tower import opened
from wire.datums import Datum
from wire.engine import Pictures
from wire.errors import InvalidRequest
from wire.extension import Media, TokenSequence, joined
from wire.picture_rule import PictureRule


def picture_disagreement(
    model: PreTrainedModel,
    linears: FrozenLinears,
    sight: Sight,
    pack: MakePack,
    score: Score,
    gathers: Gathers,
    ranks: Ranks,
    *,
    alone: bool = False,
) -> str | None:
    """See `trainer.engine.self_check.disagreement`. A tower that cannot be run differs, too."""
    one, other = (_drawn(sight.rule, seed) for seed in (1, 2))
    pictures: Pictures = {media.digest: png for png, media in (one, other)}
    datums = _family(sight.rule, int(text_config(model).vocab_size), one[1], other[1])

    def own_inputs(datum: Datum) -> dict[str, torch.Tensor]:
        sequence = datum.model_input
        is_picture_1T = torch.from_numpy(sequence.is_media)[None].to(model.device)
        shown = [opened(pictures[item.digest], item) for item in sequence.media]
        return sight.tower.own_inputs(shown, is_picture_1T)

    try:
        with sight.of(pictures):
            with ranks.agreed():
                for _, media in (one, other):
                    sight.features(media)
            shown = Shown(datums, own_inputs)
            return disagreement(model, linears, pack, score, gathers, ranks, alone=alone, shown=shown)
    except (AssertionError, AttributeError, InvalidRequest, LookupError, RuntimeError, TypeError, ValueError) as error:
        return f"its tower fails: {type(error).__name__}: {error}"


def _family(rule: PictureRule, vocab_size: int, one: Media, other: Media) -> list[Datum]:
    """A picture in what two sequences share, behind it the same or another under equal ids; a branch right behind it;
    and the other picture in its place."""
    before, between, after, aside = (
        TokenSequence(_text(length, seed, rule, vocab_size)) for length, seed in ((4, 3), (3, 11), (5, 17), (6, 23))
    )
    run_of = {media: _run(media, rule) for media in (one, other)}
    rows = [
        (before, run_of[one], between, run_of[other], after),
        (before, run_of[one], between, run_of[one], after),
        (before, run_of[one], aside),
        (before, run_of[other], between),
    ]
    return [_scored(joined(*parts), vocab_size) for parts in rows]


def _text(length: int, seed: int, rule: PictureRule, vocab_size: int) -> np.ndarray:
    """Ids without a pattern, and without the one that the model itself would take for a part of a picture."""
    ids = (np.arange(length) + seed) * 7919 % vocab_size
    return np.where(ids == rule.placeholder_id, (ids + 1) % vocab_size, ids).astype(np.int32)


def _run(media: Media, rule: PictureRule) -> TokenSequence:
    return TokenSequence(np.full(media.num_tokens, rule.placeholder_id, np.int32), (media,))


def _scored(sequence: TokenSequence, vocab_size: int) -> Datum:
    datum = probe(len(sequence) + 1, vocab_size, prefix=sequence.ids.tolist())
    return replace(datum, model_input=sequence)


def _drawn(rule: PictureRule, seed: int) -> tuple[bytes, Media]:
    """Noise, of 3×2 tokens unless the rule wants more."""
    width, height = 3 * rule.patch * rule.merge, 2 * rule.patch * rule.merge
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    into = io.BytesIO()
    Image.fromarray(pixels).save(into, "PNG")
    png = into.getvalue()
    return png, Media(0, rule.num_tokens(width, height), hashlib.sha256(png).digest(), width, height)
