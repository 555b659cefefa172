"""Composition root of a server: one process, or several that share a port."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.main import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess

from server.metrics.workers import shared_counts
from server.process.elastic import ElasticSettings
from server.process.settings import (
    GarbageCollectionSettings,
    GatewayLimits,
    GuardSettings,
    Limits,
    PictureSettings,
    RunSettings,
    ServerSettings,
    StopSettings,
    TrainerStart,
    TrainingLimits,
)
from server.process.shutdown import Shutdown
from store.planes.promotion_policy import PromotionPolicy
from wire.lora import LoraConfig
from wire.process.faults import arm_faults
from wire.process.http_protocol import BoundedProtocol
from wire.process.logging import configure_logging
from wire.process.tls_settings import TlsSettings, TrustSettings
from wire.process.tracing import configure_tracing
from wire.process.uvicorn_tls import TlsConfig
from wire.process.websocket_protocol import WEBSOCKET_OPTIONS, QuietWebSockets

if TYPE_CHECKING:
    from fastapi import FastAPI

_SHUTDOWN_S = 2
"""For connections to end: no request is under way when uvicorn gets the signal to stop."""
_WORKER_START_S = 60
"""A worker that does not answer its supervisor for so long is replaced: its imports take seconds on a busy machine."""
_BACKLOG = 4096
_ACCEPTS_A_TURN = 16
_KEEP_ALIVE_S = 75
"""Longer than clients keep a connection that they may use again (httpx, hence hud and openai: 5 s): whoever is first to
end it must not be us, or a request that is on its way at this moment is lost."""
_GC_THRESHOLDS = (20_000, 10, 1_000)
_POOL, _LEAST_POOL = 20, 5


def serve(
    *,
    database_url: str,
    blob_store_url: str,
    sampler_token: str,
    host: str = "127.0.0.1",
    port: int = 8420,
    workers: int = 1,
    limits: Limits | None = None,
    gateway_limits: GatewayLimits | None = None,
    training_limits: TrainingLimits | None = None,
    garbage_collection: GarbageCollectionSettings | None = None,
    trainer_start: TrainerStart | None = None,
    metrics_token: str | None = None,
    sampler_token_file: Path | None = None,
    metrics_token_file: Path | None = None,
    log_format: str | None = None,
    promotion: PromotionPolicy = PromotionPolicy.ONE,
    stop: StopSettings | None = None,
    guard: GuardSettings | None = None,
    pictures: PictureSettings | None = None,
    runs: RunSettings | None = None,
    elastic: ElasticSettings | None = None,
    default_lora: LoraConfig | None = None,
    tls: TlsSettings | None = None,
    trust: TrustSettings | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; requests under way then end as `server.process.shutdown` says."""
    settings = ServerSettings(
        database_url,
        blob_store_url,
        sampler_token,
        default_lora=default_lora or LoraConfig(),
        limits=limits or Limits(),
        gateway_limits=gateway_limits or GatewayLimits(),
        training_limits=training_limits or TrainingLimits(),
        garbage_collection=garbage_collection,
        trainer_start=trainer_start,
        database_pool_size=max(_LEAST_POOL, _POOL // workers),
        metrics_token=metrics_token,
        sampler_token_file=sampler_token_file,
        metrics_token_file=metrics_token_file,
        promotion=promotion,
        workers=workers,
        stop=stop or StopSettings(),
        guard=guard or GuardSettings(),
        pictures=pictures or PictureSettings(),
        runs=runs or RunSettings(),
        trust=trust or TrustSettings(),
        elastic=elastic or ElasticSettings(),
    )
    _allow_many_files()
    options: dict[str, Any] = {
        "factory": True,
        "workers": workers,
        "backlog": _BACKLOG,
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "http": BoundedProtocol,
        "ws": QuietWebSockets,
        **WEBSOCKET_OPTIONS,
        "timeout_keep_alive": _KEEP_ALIVE_S,
        "timeout_graceful_shutdown": _SHUTDOWN_S,
        "timeout_worker_healthcheck": _WORKER_START_S,
    }
    # uvicorn.run would insist on an import string for workers, which cannot carry settings; they are pickled instead.
    config = TlsConfig(partial(_app, settings, log_format), tls=tls or TlsSettings(), **options)
    sockets = _listeners(host, port)
    if workers == 1:
        server = uvicorn.Server(config)
        with contextlib.suppress(KeyboardInterrupt):  # raised once more when all has ended
            server.run(sockets)
        if not server.started:
            sys.exit(STARTUP_FAILURE)
    else:
        with shared_counts():
            _Supervisor(config, sockets=sockets).run()


class _Supervisor(Multiprocess):
    """Replaces a worker as soon as it has died: its end of the pipe for health checks is closed here, or the supervisor
    would wait _WORKER_START_S for an answer that nobody can give."""

    def init_processes(self) -> None:
        super().init_processes()
        self._close_ends_of_workers()

    def keep_subprocess_alive(self) -> None:
        super().keep_subprocess_alive()
        self._close_ends_of_workers()

    def _close_ends_of_workers(self) -> None:
        for process in self.processes:
            process.child_conn.close()


def _listeners(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of the host, each several times. libuv takes one new client of a listener in
    each turn of its loop, and a turn of a loop with thousands of requests is long: clients that came would wait half a
    minute to be let in. Ends the process where that is not possible."""
    listeners = list[socket.socket]()
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, address in dict.fromkeys(found):
            listening = socket.create_server(address, family=family, backlog=_BACKLOG)
            listeners += [listening, *(listening.dup() for _ in range(_ACCEPTS_A_TURN - 1))]
    except OSError as error:
        sys.exit(f"cannot listen on {host}, port {port}: {error.strerror}")
    return listeners


def _app(settings: ServerSettings, log_format: str | None) -> FastAPI:
    """The app, in whichever process serves it."""
    supervisor = multiprocessing.parent_process()
    if supervisor is not None:
        configure_logging("server", log_format)
        configure_tracing("server")
        arm_faults()
        threading.Thread(target=_end_with, args=(supervisor,), name="supervisor", daemon=True).start()
    from server.app import create_app  # seconds, which the supervisor of several workers need not spend too

    app = create_app(settings)
    _drain_at_signals(app.state.shutdown)
    # Thousands of requests in flight are many objects that live long: looking for cycles among them at Python's own
    # pace is a quarter of the gateway's processor time; much less often makes pauses of 0.2 s.
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    return app


def _drain_at_signals(shutdown: Shutdown) -> None:
    """Pass a signal on to uvicorn, whose handlers are in place by now, when no request is left: it would close
    its sockets at once, and cancel requests in the end. A second SIGINT reaches it at once."""
    loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    async def drain_before(handler: Callable[[int, FrameType | None], Any], signum: int) -> None:
        await shutdown.drain()
        handler(signum, None)

    def begin(handler: Callable[[int, FrameType | None], Any], signum: int) -> None:
        if shutdown.is_begun and signum == signal.SIGINT:
            handler(signum, None)
        else:
            tasks.add(loop.create_task(drain_before(handler, signum)))

    for signum in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(signum)
        if callable(handler):
            signal.signal(signum, lambda got, _, handler=handler: loop.call_soon_threadsafe(begin, handler, got))


def _end_with(supervisor: Any) -> None:
    wait([supervisor.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def _allow_many_files() -> None:
    """A rollout takes two sockets, one to the client and one to the sampler; many systems begin at 1024 files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
