"""What every request can reach: one object per process, made by the app's lifespan."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request

from server.auth.attempts import Attempts
from server.auth.key_lookups import KeyLookups
from server.auth.key_uses import KeyUses
from server.catalog.heads import Heads
from server.checkpoint_names.adapter_files import AdapterFiles
from server.client_sessions.heartbeats import Heartbeats
from server.environments.tunnels import Tunnels
from server.metrics.blobs import MeasuredBlobs
from server.metrics.instruments import ServerMetrics
from server.metrics.keeping import watching_pools
from server.pictures.collaborators import Pictures
from server.pictures.decoder import PictureDecoder
from server.pictures.reading import read
from server.process.elastic import WithoutSampler
from server.process.settings import ServerSettings
from server.process.shared_lookups import SharedLookups
from server.process.shutdown import Shutdown
from server.runners.heartbeats import RunnerHeartbeats
from server.runners.waiting import WaitingRunners
from server.runs.defaults import RunDefaults
from server.sampling.admission import SamplingKeys
from server.sampling.collaborators import Sampling
from server.sampling.connections import Connections
from server.sampling.demand import DemandReports
from server.sampling.dispatch import Dispatch
from server.sampling.limits import TeamLimits
from server.sampling.lookups import (
    answering_samplers,
    checkpoint_wants,
    database_answering,
    holder_lookups,
    live_sampler_urls,
    serving_lookups,
)
from server.sampling.patience import Absence, AdapterHolders
from server.sampling.recorder import Recorder
from server.sampling.sampler_client import SamplerClient
from server.sampling.sampler_pool import SamplerPool
from server.sampling.sampler_watch import SamplerWatch
from server.sampling_sessions.futures import SamplingFutures
from server.training.collaborators import Training
from server.training.places import TrainingPlaces
from server.uploads.upload_parser import UploadParser
from server.upstreams.forwarding import Upstreams
from store.blob_stores import BlobStore, open_blob_store
from store.cache_acknowledgements import CacheAcknowledgements
from store.checkpoint_stores import CheckpointStore, open_checkpoint_store
from store.database import AsyncDatabase
from store.notify import AsyncListener
from store.oplog.waiting import WaitingCalls
from store.pictures import PictureStore
from store.schema import newest_revision
from wire.loaded import Loaded, store_fingerprint, version_of
from wire.process.tls import PlaneTrust
from wire.process.tokens import Tokens

_BACKGROUND_POOL, _HEARTBEAT_POOL = 4, 12
"""The second is the driver's, over which runners beat: a thousand of them waited for one another with four."""


@dataclass(frozen=True, slots=True)
class Context:
    """The process's connections to the store and to the samplers. `database` is for requests, which may wait for one
    another; `background` for what must go on whatever they do: readiness, the guard, what is recorded for all."""

    settings: ServerSettings
    database: AsyncDatabase
    background: AsyncDatabase
    listener: AsyncListener
    waiting_calls: WaitingCalls
    blobs: BlobStore
    sampling: Sampling
    sampling_futures: SamplingFutures
    training: Training
    heads: Heads
    metrics: ServerMetrics
    metrics_tokens: Tokens
    attempts: Attempts
    key_uses: KeyUses
    keys: KeyLookups
    heartbeats: Heartbeats
    runner_heartbeats: RunnerHeartbeats
    upload_parser: UploadParser
    pictures: Pictures
    shutdown: Shutdown
    answering: SharedLookups[str, bool]
    database_answering: SharedLookups[str, None]
    adapter_files: AdapterFiles
    run_defaults: RunDefaults
    tunnels: Tunnels
    waiting_runners: WaitingRunners
    upstreams: Upstreams


@asynccontextmanager
async def open_context(settings: ServerSettings, metrics: ServerMetrics, shutdown: Shutdown) -> AsyncGenerator[Context]:
    """Connect, and disconnect at the end. Raises OSError, ValueError for files of tokens or CAs that have none."""
    sampler_tokens = Tokens(settings.sampler_token, settings.sampler_token_file)
    metrics_tokens = Tokens(settings.metrics_token, settings.metrics_token_file)
    database = AsyncDatabase(
        settings.database_url, pool_size=settings.database_pool_size, limits=settings.database_queue
    )
    background = AsyncDatabase(settings.database_url, pool_size=_BACKGROUND_POOL, driver_pool_size=_HEARTBEAT_POOL)
    listener = AsyncListener(settings.database_url)
    listener.presence.details = _details(settings).to_json()
    listener.presence.when_contracted = _end_service
    acknowledgements = CacheAcknowledgements(background, listener)
    for changing in (database, background):
        changing.expire_caches = acknowledgements.expire
    await listener.start()
    timeouts = settings.timeouts
    waiting_calls = WaitingCalls(background, listener, trouble_s=timeouts.trouble_s)
    waiting_calls.start()
    trust = PlaneTrust(settings.trust)
    connections = Connections(connect_s=timeouts.sampler_connect_s, read_s=timeouts.sampler_read_s, trust=trust)
    pool = SamplerPool(connections.is_answering, metrics)
    blobs = MeasuredBlobs(open_blob_store(settings.blob_store_url), metrics)
    recorder = Recorder(background, blobs, metrics, clock=listener.presence.clock)
    recorder.start()
    wants = checkpoint_wants(database)
    elastic = settings.elastic
    absence = Absence(
        elastic.without is WithoutSampler.REFUSE, timeouts.samplers_s if elastic.wait_s is None else elastic.wait_s
    )
    holders = AdapterHolders(holder_lookups(database, acknowledgements), wants, listener, shutdown, absence)
    demand = DemandReports(background, listener.presence.number, elastic.reported_every_s)
    demand.start()
    watch = SamplerWatch(connections, live_sampler_urls(background))
    key_uses = KeyUses(background)
    upload_parser = UploadParser()
    decoder = PictureDecoder(settings.pictures.limits)
    pictures = Pictures(settings.pictures, decoder, database, PictureStore(database), blobs, metrics)
    sampling = Sampling(
        database,
        SamplingKeys(serving_lookups(database, metrics, acknowledgements), key_uses),
        wants,
        SamplerClient(connections, sampler_tokens, pool.lost, partial(read, pictures), metrics),
        Dispatch(pool, holders, demand, metrics, timeouts.samplers_s),
        TeamLimits(settings.gateway_limits, metrics, shutdown),
        recorder,
    )
    upstreams = Upstreams(sampling)
    sampling_futures = SamplingFutures(sampling, background, listener, settings.gateway_limits.running_per_team)
    sampling_futures.start()
    waiting_runners = WaitingRunners(background, listener)
    try:
        async with watching_pools(metrics, database):
            waiting_runners.start()
            yield Context(
                settings,
                database,
                background,
                listener,
                waiting_calls,
                blobs,
                sampling,
                sampling_futures,
                Training(
                    database,
                    background,
                    blobs,
                    listener,
                    waiting_calls,
                    shutdown,
                    metrics,
                    key_uses,
                    TrainingPlaces(settings.training_limits),
                    settings.limits.batch_tokens,
                    timeouts.operation_s,
                ),
                Heads(database, listener, shutdown, settings.promotion, timeouts.samplers_s),
                metrics,
                metrics_tokens,
                Attempts(),
                key_uses,
                KeyLookups(database, background, acknowledgements),
                Heartbeats(background),
                RunnerHeartbeats(background),
                upload_parser,
                pictures,
                shutdown,
                answering_samplers(connections.is_answering),
                database_answering(background),
                AdapterFiles(_checkpoint_store(settings)),
                RunDefaults.read(settings.runs.defaults),
                Tunnels(database, background, listener, metrics, trust),
                waiting_runners,
                upstreams,
            )
    finally:
        await waiting_runners.close()
        await sampling_futures.close()
        await upstreams.close()
        await watch.close()
        await demand.close()
        await recorder.close()
        await upload_parser.close()
        await decoder.close()
        blobs.threads.close()
        await key_uses.close()
        pool.close()
        connections.close()
        await waiting_calls.close()
        await acknowledgements.close()
        await listener.close()
        await background.close()
        await database.close()


def _end_service() -> None:
    """A supervisor would start this process again."""
    supervisor = multiprocessing.parent_process()
    os.kill((supervisor and supervisor.pid) or os.getpid(), signal.SIGTERM)


def _details(settings: ServerSettings) -> Loaded:
    """Whoever may see the System page is not shown folders and buckets, but which kind they are of."""
    collection = settings.garbage_collection
    scheme = urlsplit(collection.checkpoint_store_url).scheme if collection else None
    store = {"file": "a folder", "s3": "S3"}.get(scheme, scheme) if scheme else None
    stores = {"blobs": settings.blob_store_url}
    stores |= {"checkpoints": collection.checkpoint_store_url} if collection else {}
    lora = settings.default_lora
    shape: dict[str, Any] = {"lora_rank": lora.rank, "lora_alpha": lora.alpha, "lora_targets": lora.parts}
    return Loaded(
        version=version_of("headway"),
        schema=newest_revision(),
        checkpoint_store=store,
        workers=settings.workers,
        stores={name: store_fingerprint(url) for name, url in stores.items()},
        **shape,
    )


def _checkpoint_store(settings: ServerSettings) -> CheckpointStore | None:
    collection = settings.garbage_collection
    return open_checkpoint_store(collection.checkpoint_store_url) if collection else None


async def request_context(request: Request) -> Context:
    """The context of the app that serves this request. (Async, for the framework runs others in a thread.)"""
    return request.app.state.context


ContextDep = Annotated[Context, Depends(request_context)]
