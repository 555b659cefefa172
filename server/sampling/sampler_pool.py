"""Which of the samplers that hold an adapter gets a request: the one that saw this prompt before, unless it is
busier than the others, or was lost a moment ago.

Rendezvous hashing with bounded loads (arXiv:1608.01350): each prompt ranks the samplers, in every replica alike, and
goes to the first that is not overloaded. What overflows from one prompt's favourite goes to its second, whose prefix
cache warms up as well.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager

import numpy as np
import structlog
from numpy.typing import NDArray

from server.metrics.instruments import ServerMetrics
from store.planes.serving import Sampler

log = structlog.get_logger(__name__)

_ALWAYS = 8
"""So many sequences a sampler may have whatever the others have: a warm cache outweighs them."""
_BOUND = 1.25
"""Times the mean load: more than this goes to the next in rank."""
_FIRST_PROBE_S, _LAST_PROBE_S = 0.2, 2.0
_GIVE_UP_S = 60.0
"""By then heartbeats show which samplers live."""


class SamplerPool:
    """Counts this process's sequences in flight, and knows which samplers it lost and did not reach again since.
    `is_answering` returns whether one can be reached."""

    def __init__(
        self, is_answering: Callable[[str], Awaitable[bool]] | None = None, metrics: ServerMetrics | None = None
    ) -> None:
        self._is_answering = is_answering
        self._metrics = metrics or ServerMetrics()
        self._in_flight: Counter[int] = Counter()
        self._lost: dict[str, asyncio.Task[None]] = {}

    def choose(self, samplers: Sequence[Sampler], affinity: bytes) -> Sampler:
        """One of `samplers` (at least one). Lost ones only if there is no other."""
        present = [sampler for sampler in samplers if sampler.url not in self._lost] if self._lost else samplers
        present = present or samplers
        if len(present) == 1:
            return present[0]
        loads = np.array([self._in_flight.get(sampler.seed, 0) for sampler in present])
        bound = max(_ALWAYS, _BOUND * (loads.sum() + 1) / len(present))
        ranks = _ranks(np.array([sampler.seed for sampler in present], np.uint64), affinity)
        return present[int(np.where(loads < bound, ranks, 0).argmax())]

    @contextmanager
    def occupied(self, sampler: Sampler, num_sequences: int = 1) -> Generator[None]:
        """Count sequences that this sampler works on until the block ends."""
        self._in_flight[sampler.seed] += num_sequences
        try:
            yield
        finally:
            self._in_flight[sampler.seed] -= num_sequences
            if not self._in_flight[sampler.seed]:
                del self._in_flight[sampler.seed]

    def lost(self, url: str) -> None:
        """A sampler did not answer, or its connection broke: others are asked until it can be reached again."""
        if url not in self._lost and self._is_answering is not None:
            log.warning("sampler_lost", url=url)
            self._metrics.sampler_lost()
            self._lost[url] = asyncio.create_task(self._probe(url, self._is_answering))

    def close(self) -> None:
        """Look after nobody any more."""
        for probe in self._lost.values():
            probe.cancel()

    async def _probe(self, url: str, is_answering: Callable[[str], Awaitable[bool]]) -> None:
        pause_s, waited_s = _FIRST_PROBE_S, 0.0
        try:
            while waited_s < _GIVE_UP_S:
                await asyncio.sleep(pause_s)
                waited_s += pause_s
                pause_s = min(2 * pause_s, _LAST_PROBE_S)
                if await is_answering(url):
                    log.info("sampler_back", url=url, after_s=round(waited_s, 1))
                    return
        finally:
            del self._lost[url]


def _ranks(seeds_S: NDArray[np.uint64], affinity: bytes) -> NDArray[np.uint64]:
    """Seeds mixed with the affinity by the finalizer of SplitMix64 (doi:10.1145/2660193.2660195), of hundreds at once:
    a hash of each cost 2 microseconds of a request's processor time."""
    mixed_S = seeds_S ^ np.uint64(int.from_bytes(hashlib.blake2b(affinity, digest_size=8).digest()))
    mixed_S = (mixed_S ^ mixed_S >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed_S = (mixed_S ^ mixed_S >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return mixed_S ^ mixed_S >> np.uint64(31)
