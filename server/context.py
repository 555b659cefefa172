"""What every request can reach: one object per process, made by the app's lifespan."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import httpx
from fastapi import Depends, Request

from server.gateway.sampler_client import SamplerClient
from server.gateway.sampler_pool import SamplerPool
from server.settings import ServerSettings
from store.blobs import BlobStore
from store.database import AsyncDatabase
from store.notify import AsyncListener


@dataclass(frozen=True, slots=True)
class Context:
    """The process's connections to the store and to the samplers."""

    settings: ServerSettings
    database: AsyncDatabase
    listener: AsyncListener
    blobs: BlobStore
    sampler_client: SamplerClient
    sampler_pool: SamplerPool


@asynccontextmanager
async def open_context(settings: ServerSettings) -> AsyncGenerator[Context]:
    """Connect, and disconnect at the end."""
    database = AsyncDatabase(settings.database_url)
    listener = AsyncListener(settings.database_url)
    await listener.start()
    timeouts = settings.timeouts
    async with httpx.AsyncClient(
        timeout=httpx.Timeout(timeouts.sampler_read_s, connect=timeouts.sampler_connect_s),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
        trust_env=False,  # samplers are neighbours: a proxy from the environment has no business in between
    ) as http:
        client = SamplerClient(http, settings.sampler_token)
        try:
            blobs = BlobStore(settings.blob_root)
            yield Context(settings, database, listener, blobs, client, SamplerPool())
        finally:
            await listener.close()
            await database.close()


async def request_context(request: Request) -> Context:
    """The context of the app that serves this request. (Async, for the framework runs others in a thread.)"""
    return request.app.state.context


ContextDep = Annotated[Context, Depends(request_context)]
