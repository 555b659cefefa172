"""Where tokens are, for rotary embeddings: a number a token, or of bases with three axes (Qwen2.5-VL, Qwen3-VL) time,
row and column.

Text counts on by one on all axes. A picture at position p is at time p, and its tokens at p + row and p + column of its
grid; what follows is at p + max(rows, columns), not at p + rows × columns. A function of the sequence alone, so that
equal prefixes have equal positions.
"""

# A axes, N tokens

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wire.extension import Media, TokenSequence
from wire.picture_rule import PictureRule

Int64Array = npt.NDArray[np.int64]


def positions_AN(sequence: TokenSequence, rule: PictureRule) -> Int64Array:
    """int64 (A, N). A placeholder id outside of a run is text."""
    found = np.empty((rule.axes, len(sequence)), np.int64)
    if rule.axes == 1:
        found[0] = np.arange(len(sequence))
        return found
    stop, position = 0, 0
    for item in sequence.media:
        found[:, stop : item.start] = np.arange(position, position + item.start - stop)
        position += item.start - stop
        rows, columns = _grid(item, rule)
        found[:, item.start : item.stop] = position
        found[1, item.start : item.stop] += np.repeat(np.arange(rows), columns)
        found[2, item.start : item.stop] += np.tile(np.arange(columns), rows)
        position += max(rows, columns)
        stop = item.stop
    found[:, stop:] = np.arange(position, position + len(sequence) - stop)
    return found


def next_position(sequence: TokenSequence, rule: PictureRule) -> int:
    """Of the token behind a sequence, on all axes."""
    if rule.axes == 1:
        return len(sequence)
    return len(sequence) + sum(max(_grid(item, rule)) - item.num_tokens for item in sequence.media)


def _grid(item: Media, rule: PictureRule) -> tuple[int, int]:
    rows, columns = rule.grid(item.width, item.height)
    assert rows * columns == item.num_tokens, "a sequence of another rule"
    return rows, columns
