"""Ids with the pictures that they are said to show, held against the base's rule.

Apart from the rule, since commands that only show their options import that, and no numpy.
"""

from __future__ import annotations

from wire.errors import InvalidRequest
from wire.extension import Int32Array, Media, TokenSequence
from wire.picture_rule import PictureRule


def sequence_of(rule: PictureRule, what: str, ids: Int32Array, media: tuple[Media, ...]) -> TokenSequence:
    """Ids with their media, checked: runs in order, within the ids, of placeholders alone, and as long as the sizes
    of their pictures ask for. Raises InvalidRequest with a sentence that begins with `what`."""
    end = 0
    for number, item in enumerate(media):
        which = f"{what}: picture {number}"
        if not end <= item.start < item.stop <= len(ids):
            raise InvalidRequest(f"{which} has tokens {item.start} to {item.stop} of {len(ids)}, behind {end}")
        if (expected := _tokens_of(rule, item, which)) != item.num_tokens:
            size = f"{item.width}×{item.height}"
            raise InvalidRequest(f"{which} has {item.num_tokens} tokens: one of {size} pixels has {expected} here")
        if (ids[item.start : item.stop] != rule.placeholder_id).any():
            raise InvalidRequest(f"{which} stands on tokens other than {rule.placeholder_id}, its placeholder")
        end = item.stop
    return TokenSequence(ids, media)


def _tokens_of(rule: PictureRule, item: Media, which: str) -> int:
    try:
        return rule.num_tokens(item.width, item.height)
    except InvalidRequest as error:
        raise InvalidRequest(f"{which}: {error.message}") from error
