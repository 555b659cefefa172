"""Composition root of a sampler process."""

from __future__ import annotations

import asyncio
import gc
import signal
from functools import partial
from uuid import UUID

import structlog
from transformers.utils.logging import set_tqdm_hook

from sampler.admission.draining import DrainingServer, InFlight
from sampler.agent import Agent, AgentSettings
from sampler.app import create_app
from sampler.backends import open_backend
from sampler.metrics import SamplerMetrics
from sampler.settings import SamplerSettings
from sampler.tokenizer_files import tokenizer_archive
from store.catalog import base_by_slug
from store.checkpoint_stores import open_checkpoint_store
from store.database import Database
from store.private_files import shared_umask
from store.schema import require_schema
from wire.loaded import store_fingerprint
from wire.process.exits import GaveUp
from wire.process.http_protocol import BoundedProtocol, ConnectionBounds
from wire.process.hub_weights import fetch_weights, require_weights
from wire.process.loading_progress import logged_bar
from wire.process.origins import advertised_host, http_origin, listen
from wire.process.tokens import Tokens
from wire.process.uvicorn_tls import TlsConfig

log = structlog.get_logger(__name__)

_SHUTDOWN_S = 2
"""For what is still under way after the drain; it is cut off then, and sampled anew elsewhere."""


class SamplerProtocol(BoundedProtocol):
    """Of gateways, whose own clients may read slowly: it is theirs to give up a stream."""

    bounds = ConnectionBounds(readers_may_stall=True)


def _agent_settings(settings: SamplerSettings, base_id: UUID, url: str) -> AgentSettings:
    stores = {"checkpoints": store_fingerprint(settings.checkpoint_store_url)}
    return AgentSettings(base_id, url, settings.backend, settings.linger_s, stores)


def run(settings: SamplerSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises IncompatibleSchema, NotFound for an unknown base, OSError or ValueError for
    a base that the backend cannot serve, GaveUp for one that it cannot serve any more."""
    tokens = Tokens(settings.token, settings.token_file)
    database = Database(settings.database_url, pool_size=1, keeps_sessions=False)
    with database.connection() as connection:
        require_schema(connection)
    with database.session() as session:
        base = base_by_slug(session, settings.base_slug)
    assert base.weights is not None
    options = {
        "seed": settings.seed,
        "num_threads": settings.threads or None,
        "tensor_parallel": settings.tensor_parallel,
        **({"products": settings.products} if settings.backend == "local" else {}),
        **settings.backend_options,
    }
    require_weights(base.weights)
    set_tqdm_hook(logged_bar)
    with shared_umask():
        fetch_weights(base.weights)
        backend = open_backend(settings.backend, base.weights, **options)

    listening = listen(settings.host, settings.port)
    url = settings.advertise or http_origin(
        advertised_host(settings.host), listening.getsockname()[1], is_tls=settings.tls.is_on
    )
    checkpoints = open_checkpoint_store(settings.checkpoint_store_url)
    metrics = SamplerMetrics()
    metrics.show_process()
    loaded = backend.details
    metrics.loaded(settings.base_slug, settings.backend, loaded)
    metrics.show_adapters(lambda: len(backend.loaded()))
    agent = Agent(database, checkpoints, backend, _agent_settings(settings, base.id, url), metrics)
    app = InFlight(
        create_app(
            backend,
            tokens,
            metrics,
            Tokens(settings.metrics_token, settings.metrics_token_file),
            tokenizer=partial(tokenizer_archive, base.weights),
        )
    )
    config = TlsConfig(
        app,
        tls=settings.tls,
        access_log=False,
        log_config=None,
        server_header=False,
        http=SamplerProtocol,
        ws="none",
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    gc.collect()
    gc.freeze()  # what was loaded so far stays: a full collection through torch's modules would hold a step up
    server = DrainingServer(config, app, agent.leave, settings.drain_s)
    agent.start()
    for signum in (signal.SIGTERM, signal.SIGINT):  # uvicorn listens to them only once it serves
        signal.signal(signum, server.handle_exit)
    log.info("sampler_ready", base=settings.base_slug, url=url, backend=settings.backend, **loaded.to_json())
    try:
        server.run(sockets=[listening])
    finally:
        agent.close()
        asyncio.run(backend.close())
        database.close()
        log.info("sampler_stopped")
    if (reason := backend.final_trouble()) is not None:
        raise GaveUp(reason)
