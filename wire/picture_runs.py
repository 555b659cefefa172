"""Ids with the pictures that they are said to show, held against the base's rule.

Apart from the rule, since commands that only show their options import that, and no numpy.
"""

from __future__ import annotations

import numpy as np

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


def longest_run(ids: Int32Array, token_id: int) -> int:
    """How many times in a row the ids hold this one at most."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ids == token_id, [False]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def refuse_unseen(rule: PictureRule, what: str, ids: Int32Array) -> None:
    """Raises InvalidRequest where ids without media hold a run as long as that of the base's smallest picture: as text,
    they would be a prompt that sees nothing. A placeholder that a policy sampled is text, and passes."""
    longest = longest_run(ids, rule.placeholder_id)
    if longest >= max(2, rule.min_tokens):
        raise InvalidRequest(
            f"{what} holds {longest} placeholders of a picture in a row, and no picture: send the prompt_chunks that "
            "came with it"
        )


def _tokens_of(rule: PictureRule, item: Media, which: str) -> int:
    try:
        return rule.num_tokens(item.width, item.height)
    except InvalidRequest as error:
        raise InvalidRequest(f"{which}: {error.message}") from error
