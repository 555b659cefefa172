"""Composition root of the trainer process."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from uuid import UUID

import structlog
from transformers.utils.logging import set_tqdm_hook

from store.blobs import BlobStore
from store.catalog import base_by_slug, describe_base
from store.checkpoint_stores import open_checkpoint_store
from store.database import Database
from store.planes.registration import register_trainer, trainer_ready
from store.planes.trainer_starts import start_failed
from store.private_files import shared_umask
from store.tables import ModelRow
from trainer.engine.base_model import BaseModel, load_base_model
from trainer.engine.device_errors import device_error
from trainer.engine.device_memory import device_memory, device_name
from trainer.engine.engine import EngineSettings, TrainingEngine
from trainer.engine.heap import keep_freed_memory
from trainer.engine.throughput import tokens_per_s
from trainer.settings import TrainerSettings
from trainer.worker.cancellation import Cancellation
from trainer.worker.instruments import TrainerMetrics
from trainer.worker.lease_keeper import LeaseKeeper
from trainer.worker.logprob_keeper import LogprobKeeper
from trainer.worker.loop import Worker, WorkerSettings
from trainer.worker.snapshots import SnapshotPolicy
from trainer.worker.stopping import Stop
from trainer.worker.watchdog import Watchdog
from wire.engine import LoraConfig
from wire.errors import HeadwayError
from wire.loaded import Loaded, version_of
from wire.process.hub_weights import fetch_weights, require_weights
from wire.process.loading_progress import logged_bar
from wire.process.metrics_page import metrics_page
from wire.process.origins import http_origin
from wire.process.threads import threads_for

log = structlog.get_logger(__name__)


def run(settings: TrainerSettings) -> None:
    """Train until SIGTERM or SIGINT, or until there was nothing to do for long. Raises NotFound for an unknown base,
    OSError or ValueError for weights that do not load."""
    keep_freed_memory()
    database = Database(settings.database_url)
    with database.session() as session:
        base = base_by_slug(session, settings.base_slug)
        trainer_id = register_trainer(session, base.id, {}, is_loading=True)
    keeper = LeaseKeeper(database, trainer_id, settings.lease_ttl_s)

    def cut_short() -> None:
        log.warning("stop_overdue", handed_back="what was under way")
        keeper.close()
        os._exit(0)

    def stands_still(for_s: float) -> None:
        log.error("engine_stands_still", for_s=round(for_s), then="this process ends; another trainer goes on")
        os._exit(1)

    metrics = TrainerMetrics()
    logprobs = LogprobKeeper(database, metrics, enabled=settings.keep_logprobs)
    watchdog = Watchdog(settings.watchdog_s, stands_still)
    stop = Stop(settings.stop_grace_s, cut_short, watchdog.seen)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop.request)
    try:
        with _noting_failure(database, base.id):
            worker, loaded = _load(settings, database, base, trainer_id, stop, metrics, logprobs)
        log.info("trainer_ready", base=settings.base_slug, trainer=str(trainer_id), **loaded.to_json())
        watchdog.start()
        with _metrics_page(settings, metrics):
            worker.run(stop, _leave_after(settings.idle_exit_s, keeper))
    finally:
        keeper.close()
        logprobs.close()
        database.close()
        log.info("trainer_stopped")


@contextmanager
def _noting_failure(database: Database, base_id: UUID) -> Generator[None]:
    """Callers and `headway status` say why there is no trainer."""
    try:
        yield
    except (HeadwayError, OSError, ValueError) as error:
        with database.connection() as connection:
            start_failed(connection, base_id, str(error))
        raise


@contextmanager
def _metrics_page(settings: TrainerSettings, metrics: TrainerMetrics) -> Generator[None]:
    if settings.metrics_port is None:
        yield
        return
    metrics.show_process()
    with metrics_page(metrics.registry, settings.metrics_host, settings.metrics_port, settings.metrics_token) as port:
        log.info("metrics", url=f"{http_origin(settings.metrics_host, port)}/metrics")
        yield


def _load(
    settings: TrainerSettings,
    database: Database,
    base: ModelRow,
    trainer_id: UUID,
    stop: Stop,
    metrics: TrainerMetrics,
    logprobs: LogprobKeeper,
) -> tuple[Worker, Loaded]:
    """A worker that is known to be ready, with its engine; and what was loaded."""
    assert base.weights is not None
    device = _device(settings.device)
    if device != "cpu":
        _equal_bits_for_equal_passes()
    require_weights(base.weights)
    set_tqdm_hook(logged_bar)
    with shared_umask():
        fetch_weights(base.weights)
        weights = load_base_model(base.weights, device=device)
    threads = settings.threads or threads_for(weights.info.num_parameters)
    cancellation = Cancellation(database, base.id, trainer_id, stop.check)
    engine = TrainingEngine(weights, _engine_settings(settings, threads), before_micro_batch=cancellation.check)
    worker = Worker(
        database,
        BlobStore(settings.blob_root),
        open_checkpoint_store(settings.checkpoint_store_url),
        engine,
        WorkerSettings(
            base.id,
            trainer_id,
            promote_timeout_s=settings.promotion_timeout_s,
            promotion=settings.promotion,
            lease_ttl_s=settings.lease_ttl_s,
            idle_lease_s=settings.idle_lease_s,
            snapshots=SnapshotPolicy(settings.snapshot_every_steps, settings.snapshot_every_s),
        ),
        cancellation,
        metrics,
        logprobs,
        diagnose=device_error,
    )
    loaded = _loaded(weights, threads)
    metrics.loaded(settings.base_slug, loaded)
    _show_memory(metrics, engine, worker, device)
    with database.session() as session:
        describe_base(session, base.id, engine.info)
        trainer_ready(session, trainer_id, engine.losses, loaded)
    gc.collect()
    gc.freeze()  # what was loaded so far stays: a full collection through torch's modules would hold a step up
    return worker, loaded


def _loaded(base: BaseModel, threads: int) -> Loaded:
    lora, info = LoraConfig(), base.info
    return Loaded(
        version=version_of("headway"),
        architecture=info.architecture,
        num_parameters=info.num_parameters,
        dtype=info.dtype,
        device=device_name(base.device),
        kernel=base.kernel,
        threads=threads,
        context_length=info.context_length,
        lora_rank=lora.rank,
        lora_alpha=lora.alpha,
        lora_targets=base.lora_targets(lora),
        tokens_per_s=tokens_per_s(base),
        tokens_per_s_by="measured on a short pass",
    )


def _show_memory(metrics: TrainerMetrics, engine: TrainingEngine, worker: Worker, device: str) -> None:
    """What is asked for when somebody scrapes."""
    metrics.show("headway_trainer_leases", "Models that this trainer holds", [], lambda: [((), worker.num_leases())])
    metrics.show(
        "headway_trainer_sessions",
        "Open models by where their weights and moments wait",
        ["place"],
        lambda: [((place,), count) for place, (count, _) in engine.places().items()],
    )
    metrics.show(
        "headway_trainer_session_bytes",
        "Their size",
        ["place"],
        lambda: [((place,), num_bytes) for place, (_, num_bytes) in engine.places().items()],
    )
    metrics.show("headway_trainer_device_bytes", "The GPU's memory", ["state"], lambda: device_memory(device))


def _leave_after(idle_exit_s: float | None, keeper: LeaseKeeper) -> Callable[[float], bool]:
    """Whether a trainer without work for so long has left."""

    def leave(idle_s: float) -> bool:
        return idle_exit_s is not None and idle_s >= idle_exit_s and keeper.leave_if_idle()

    return leave


def _engine_settings(settings: TrainerSettings, threads: int) -> EngineSettings:
    return EngineSettings(
        max_tokens_per_pass=settings.max_tokens_per_pass,
        max_activation_bytes=_bytes(settings.max_activation_gib),
        threads=threads,
        max_grad_norm=settings.max_grad_norm,
        canary=settings.canary,
        max_resident_bytes=_bytes(settings.max_resident_gib),
    )


def _equal_bits_for_equal_passes() -> None:
    """Sums by atomics come out in the order in which threads arrive; slower kernels keep to one order."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)


def _device(name: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
