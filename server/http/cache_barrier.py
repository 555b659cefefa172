"""Read-your-writes: a route that changes a key, a head or a sampler replies only after every process's lookup cache
(`server.sampling.lookups`, 10 ms) has expired, so a chat that comes after the reply sees the change."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import Depends

from server.cache_barrier import wait_until_caches_expire


async def _outlasting() -> AsyncGenerator[None]:
    yield
    await wait_until_caches_expire()


CacheBarrier = Depends(_outlasting, scope="function")
"""For routes: their answer goes out when no server process can have an older answer in mind."""
