"""Which sampler works on a request; and another one, when that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from server.metrics.instruments import ServerMetrics
from server.sampling.demand import DemandReports
from server.sampling.patience import AdapterHolders
from server.sampling.sampler_client import SamplerGone
from server.sampling.sampler_pool import SamplerPool
from server.sampling.target import Target
from store.planes.serving import Sampler

T = TypeVar("T")

_MOST_BROKEN = 4
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Of one server process. `patience_s`: for so long a request waits while no sampler takes it."""

    pool: SamplerPool
    holders: AdapterHolders
    demand: DemandReports
    metrics: ServerMetrics
    patience_s: float

    async def on_a_sampler(
        self, target: Target, affinity: bytes, work: Callable[[Sampler], Awaitable[T]], num_sequences: int = 1
    ) -> T:
        """What `work` makes of a sampler that holds the target's adapter. When that one is gone, another is tried, and
        everything is sampled anew: until several broke off, for then the request may be what they died of, or for
        `patience_s` none lived, held the adapter or answered.

        Raises Unavailable, and what `work` raises.
        """
        self.demand.asked(target.base_id)
        candidates, tried = target.samplers, set[UUID]()
        num_broken, patience = 0, self.holders.absence.patience(self.patience_s)
        while True:
            if not candidates:
                with self.demand.waiting(target.base_id, num_sequences):
                    candidates = await self.holders.wait(target, patience)
            if all(sampler.id in tried for sampler in candidates):
                async with self.holders.shutdown.waiting():
                    await asyncio.sleep(_PAUSE_S)
                tried.clear()
            sampler = self.pool.choose([s for s in candidates if s.id not in tried], affinity)
            tried.add(sampler.id)
            try:
                return await work(sampler)
            except SamplerGone as gone:
                num_broken += gone.broke_off
                (patience.reset if gone.broke_off else patience.begin)()
                if num_broken >= _MOST_BROKEN or patience.left_s <= 0:
                    raise
            self.metrics.retried()
            candidates = (await self.holders.find(target)).samplers

    @contextmanager
    def occupied(self, target: Target, sampler: Sampler, num_sequences: int = 1) -> Generator[None]:
        """Count sequences that a sampler works on until the block ends: here, for who is sent where, and for how many
        samplers the base wants."""
        with self.pool.occupied(sampler, num_sequences), self.demand.running(target.base_id, num_sequences):
            yield
