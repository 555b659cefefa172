"""When one token sequence goes on from another: the one comparison behind turn merge, prefix trees, payload sharing,
and the digests that find a rollout's last turn.

A sequence is compared by its symbols: its ids, and before the run of ids that stands for a media item a mark, the
length of the run and the item's digest. Without media the symbols are the ids themselves. Ids are never negative, so a
mark is no id, and no two sequences have the same symbols.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]

_MARK = -1
_NUM_MEDIA_SYMBOLS = 2 + hashlib.sha256().digest_size // 4


@dataclass(frozen=True, slots=True)
class Media:
    """A picture in a sequence: its run, which is `num_tokens` placeholder ids from `start` on, the SHA-256 of its
    canonical PNG, and its size in pixels. A run is never cut."""

    start: int
    num_tokens: int
    digest: bytes
    width: int
    height: int

    @property
    def stop(self) -> int:
        """One past the last id of the run."""
        return self.start + self.num_tokens

    @property
    def name(self) -> str:
        """The digest as 64 hexadecimal digits."""
        return self.digest.hex()

    def moved(self, by: int) -> Media:
        """The same picture `by` ids further on."""
        return replace(self, start=self.start + by)


@dataclass(frozen=True, eq=False)
class TokenSequence:
    """int32 token ids, and the media that some of them stand for: by ascending start, not overlapping, all runs within
    the ids. An id is a placeholder only inside of a run; elsewhere the same id is text."""

    ids: Int32Array
    media: tuple[Media, ...] = ()

    def __post_init__(self) -> None:
        end = 0
        for item in self.media:
            assert end <= item.start < item.stop <= len(self.ids), f"a run from {item.start} to {item.stop}"
            end = item.stop

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> TokenSequence:
        """Ids start to stop, with the media there. Neither end may lie inside of a run."""
        assert not any(item.start < edge < item.stop for item in self.media for edge in (start, stop)), "cuts a run"
        inside = (item.moved(-start) for item in self.media if start <= item.start and item.stop <= stop)
        return TokenSequence(self.ids[start:stop], tuple(inside))

    def cuts_a_run(self, at: int) -> bool:
        """Whether the first `at` ids would end inside of a run."""
        return any(item.start < at < item.stop for item in self.media)

    @property
    def is_media(self) -> npt.NDArray[np.bool_]:
        """bool (N,), which ids stand for media."""
        found = np.zeros(len(self.ids), np.bool_)
        for item in self.media:
            found[item.start : item.stop] = True
        return found

    @cached_property
    def symbols(self) -> Int32Array:
        """What the sequence is compared by."""
        if not self.media:
            return self.ids
        inserted = [_symbols_before(item) for item in self.media]
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


def _symbols_before(item: Media) -> Int32Array:
    return np.concatenate([np.array([_MARK, item.num_tokens], "<i4"), np.frombuffer(item.digest, "<i4")])


def joined(*parts: TokenSequence) -> TokenSequence:
    """The parts, one behind the other."""
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    media = tuple(item.moved(start) for part, start in zip(parts, starts, strict=False) for item in part.media)
    return TokenSequence(np.concatenate([part.ids for part in parts]).astype(np.int32, copy=False), media)


def common_prefix(one: TokenSequence, other: TokenSequence) -> int:
    """How many ids two sequences share before they part. It never ends inside of a run: what stands before a run says
    how long it is."""
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
