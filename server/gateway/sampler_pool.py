"""Which of the samplers that hold an adapter gets a request: the one that saw this prompt before, unless it is
busier than the others."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from uuid import UUID

from store.tables import SamplerRow

_BUSIER_BY = 8
"""So many more requests than the least loaded one outweigh a warm prefix cache."""


class SamplerPool:
    """Counts this process's requests in flight. Affinity needs no memory: every replica ranks samplers alike."""

    def __init__(self) -> None:
        self._in_flight: Counter[UUID] = Counter()

    def choose(self, samplers: Sequence[SamplerRow], affinity: bytes) -> SamplerRow:
        """One of `samplers` (at least one)."""
        favourite = max(samplers, key=lambda sampler: _rank(sampler, affinity))
        idlest = min(samplers, key=lambda sampler: self._in_flight[sampler.id])
        if self._in_flight[favourite.id] - self._in_flight[idlest.id] >= _BUSIER_BY:
            return idlest
        return favourite

    @contextmanager
    def occupied(self, sampler: SamplerRow, num_sequences: int = 1) -> Generator[None]:
        """Count sequences that this sampler works on until the block ends."""
        self._in_flight[sampler.id] += num_sequences
        try:
            yield
        finally:
            self._in_flight[sampler.id] -= num_sequences
            if not self._in_flight[sampler.id]:
                del self._in_flight[sampler.id]


def _rank(sampler: SamplerRow, affinity: bytes) -> bytes:
    return hashlib.blake2b(affinity + sampler.id.bytes, digest_size=8).digest()
