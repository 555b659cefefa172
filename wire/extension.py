"""When one token sequence goes on from another: the one comparison behind turn merge, prefix trees, payload sharing,
and the digests that find a rollout's last turn.

A sequence is compared by its symbols: its ids, and before the ids that stand for a media item a mark and the item's
digest. Without media the symbols are the ids themselves. Ids are never negative, so a mark is no id, and no two
sequences have the same symbols.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]

_MARK = np.array([-1], "<i4")
_NUM_MEDIA_SYMBOLS = 1 + hashlib.sha256().digest_size // 4


@dataclass(frozen=True, slots=True)
class Media:
    """An image, or the like: where the ids begin that stand for it, and the SHA-256 of its bytes."""

    start: int
    digest: bytes


@dataclass(frozen=True, slots=True, eq=False)
class TokenSequence:
    """int32 token ids, and the media that some of them stand for, by ascending start."""

    ids: Int32Array
    media: tuple[Media, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> TokenSequence:
        """Ids start to stop, with the media that begin there."""
        inside = (Media(item.start - start, item.digest) for item in self.media if start <= item.start < stop)
        return TokenSequence(self.ids[start:stop], tuple(inside))

    @property
    def symbols(self) -> Int32Array:
        """What the sequence is compared by."""
        if not self.media:
            return self.ids
        inserted = [part for item in self.media for part in (_MARK, np.frombuffer(item.digest, "<i4"))]
        starts = np.repeat([item.start for item in self.media], _NUM_MEDIA_SYMBOLS)
        return np.insert(self.ids, starts, np.concatenate(inserted))

    @property
    def key(self) -> bytes:
        """The same for equal sequences alone. The key of a sequence begins with those of its prefixes."""
        return self.symbols.astype("<i4", copy=False).tobytes()

    def num_ids(self, num_symbols: int) -> int:
        """How many of the first symbols are ids."""
        firsts = (item.start + number * _NUM_MEDIA_SYMBOLS for number, item in enumerate(self.media))
        return num_symbols - sum(min(max(num_symbols - first, 0), _NUM_MEDIA_SYMBOLS) for first in firsts)


def common_prefix(one: TokenSequence, other: TokenSequence) -> int:
    """How many ids two sequences share before they part."""
    symbols, others = one.symbols, other.symbols
    length = min(len(symbols), len(others))
    differs = symbols[:length] != others[:length]
    return one.num_ids(int(differs.argmax()) if differs.any() else length)


def begins_with(whole: TokenSequence, *parts: TokenSequence) -> bool:
    """Whether the sequence is the parts, one behind the other, and perhaps more."""
    symbols, at = whole.symbols, 0
    for expected in (part.symbols for part in parts):
        if not np.array_equal(symbols[at : at + len(expected)], expected):
            return False
        at += len(expected)
    return True


def lexicographic(sequences: Sequence[TokenSequence]) -> list[int]:
    """Indices of the sequences in lexicographic order of their symbols; equal ones keep theirs.

    Sequences with a prefix in common are neighbours.
    """
    # Big-endian bytes compare as the numbers do.
    keys = [sequence.symbols.astype(">i4").tobytes() for sequence in sequences]
    return sorted(range(len(keys)), key=keys.__getitem__)


def prefix_digests(parts: Iterable[TokenSequence]) -> Iterator[bytes]:
    """SHA-256 of the first part, of the first two together, …: equal for equal sequences, however they are parted."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.key)
        yield digest.digest()
