"""The process that leases models, carries out their operations, and writes: the only one, or rank 0 of a group."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from uuid import UUID

import structlog

from store.blob_stores import open_blob_store
from store.catalog import base_by_slug, describe_base
from store.checkpoint_stores import open_checkpoint_store
from store.database import Database
from store.planes.registration import register_trainer, trainer_ready
from store.planes.trainer_starts import start_failed
from store.schema import require_schema
from store.tables import ModelRow
from trainer.distributed.engine import DistributedEngine
from trainer.distributed.group import RankGroup
from trainer.distributed.world import World
from trainer.engine.device_errors import device_error
from trainer.engine.device_memory import device_memory
from trainer.engine.engine import TrainingEngine
from trainer.engine.heap import Heap
from trainer.engine.vision.features import Encoded
from trainer.loading import LoadedEngine, Place, load_engine
from trainer.settings import TrainerSettings
from trainer.worker.cancellation import ANSWER_WITHIN_S, Cancellation
from trainer.worker.instruments import TrainerMetrics
from trainer.worker.lease_keeper import LeaseKeeper
from trainer.worker.logprob_keeper import LogprobKeeper
from trainer.worker.loop import Worker, WorkerSettings
from trainer.worker.snapshots import SnapshotPolicy
from trainer.worker.stopping import Stop
from trainer.worker.watchdog import Watchdog
from wire.engine import LoraConfig
from wire.errors import DeviceLost, HeadwayError
from wire.loaded import Loaded, store_fingerprint, version_of
from wire.process.metrics_page import metrics_page
from wire.process.origins import http_origin
from wire.process.tokens import Tokens

log = structlog.get_logger(__name__)

_CONNECTIONS = 8
"""Of each pool: the engine's thread, promotions, snapshots, logprobs and heartbeats may have a statement at once."""
_SHARE_OF_A_COLLECTIVE = 0.25
"""Of its limit, for what rank 0 alone does before it takes part."""


def lead(settings: TrainerSettings, world: World | None = None) -> bool:
    """Train until SIGTERM or SIGINT, or until there was nothing to do for long; whether it was a signal. world: None
    for a process that computes alone. Raises IncompatibleSchema, NotFound for an unknown base, OSError or
    ValueError for weights that do not load, DeviceLost where another rank is gone."""
    heap = Heap()
    heap.keep_freed()
    database = Database(settings.database_url, pool_size=_CONNECTIONS)
    pid = (world and world.agent_pid) or os.getpid()
    with database.connection() as connection:
        require_schema(connection)
    with database.session() as session:
        base = base_by_slug(session, settings.base_slug)
        trainer_id = register_trainer(session, base.id, {}, is_loading=True, pid=pid)
    lease_ttl_s = settings.lease_ttl(of_group=world is not None)
    keeper = LeaseKeeper(database, trainer_id, lease_ttl_s)

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
        with _noting_failure(database, base.id, stop):
            place = Place.take(settings, world)
            if place.group:
                place.group.pulse.when_asked_to_stop(partial(os.kill, os.getpid(), signal.SIGTERM))
            worker, engine = _load(settings, database, base, trainer_id, place, heap, stop, metrics, logprobs)
        watchdog.start()
        with _metrics_page(settings, metrics):
            worker.run(stop, _leave_after(settings.idle_exit_s, keeper))
    finally:
        keeper.close()
        logprobs.close()
        database.close()
        log.info("trainer_stopped")
    if isinstance(engine, DistributedEngine) and place.group:
        _send_home(engine, place.group, is_stopped=stop.is_set())
    return stop.is_set()


def _send_home(engine: DistributedEngine, group: RankGroup, *, is_stopped: bool) -> None:
    """The followers, who end without being sent where this process is gone."""
    try:
        engine.end(is_stopped=is_stopped)
        group.end()
    except DeviceLost as gone:
        log.warning("followers_gone", reason=str(gone))


@contextmanager
def _noting_failure(database: Database, base_id: UUID, stop: Stop) -> Generator[None]:
    """Callers and `headway status` say why there is no trainer."""
    try:
        yield
    except (HeadwayError, OSError, ValueError) as error:
        if not stop.is_set():
            with database.connection() as connection:
                start_failed(connection, base_id, str(error))
        raise


@contextmanager
def _metrics_page(settings: TrainerSettings, metrics: TrainerMetrics) -> Generator[None]:
    if settings.metrics_port is None:
        yield
        return
    metrics.show_process()
    tokens = Tokens(settings.metrics_token, settings.metrics_token_file)
    with metrics_page(metrics.registry, settings.metrics_host, settings.metrics_port, tokens) as port:
        log.info("metrics", url=f"{http_origin(settings.metrics_host, port)}/metrics")
        yield


def _load(
    settings: TrainerSettings,
    database: Database,
    base: ModelRow,
    trainer_id: UUID,
    place: Place,
    heap: Heap,
    stop: Stop,
    metrics: TrainerMetrics,
    logprobs: LogprobKeeper,
) -> tuple[Worker, TrainingEngine | DistributedEngine]:
    """A worker that is known to be ready, with its engine."""
    # Other ranks wait for the answer, in a collective.
    answer_within_s = min(ANSWER_WITHIN_S, _SHARE_OF_A_COLLECTIVE * settings.collective_limit_s)
    cancellation = Cancellation(database, base.id, trainer_id, stop.check, answer_within_s=answer_within_s)
    loaded = load_engine(settings, base.weights, place, heap, before_micro_batch=cancellation.check)
    engine = DistributedEngine(loaded.engine, place.group) if place.group else loaded.engine
    worker = Worker(
        database,
        open_blob_store(settings.blob_store_url),
        open_checkpoint_store(settings.checkpoint_store_url),
        engine,
        WorkerSettings(
            base.id,
            trainer_id,
            promote_timeout_s=settings.promotion_timeout_s,
            promotion=settings.promotion,
            lease_ttl_s=settings.lease_ttl(of_group=place.group is not None),
            idle_lease_s=settings.idle_lease_s,
            snapshots=SnapshotPolicy(settings.snapshot_every_steps, settings.snapshot_every_s),
        ),
        cancellation,
        metrics,
        logprobs,
        diagnose=device_error,
    )
    facts = replace(_facts(loaded, place), stores=_stores(settings))
    metrics.loaded(settings.base_slug, facts)
    _show_memory(metrics, engine, worker, place)
    with database.session() as session:
        describe_base(session, base.id, engine.info)
        trainer_ready(session, trainer_id, engine.losses, facts)
    gc.collect()
    gc.freeze()  # what was loaded so far stays: a full collection through torch's modules would hold a step up
    heap.return_freed()
    log.info("trainer_ready", base=settings.base_slug, trainer=str(trainer_id), **facts.to_json())
    return worker, engine


def _stores(settings: TrainerSettings) -> dict[str, str]:
    urls = {"checkpoints": settings.checkpoint_store_url, "blobs": settings.blob_store_url}
    return {name: store_fingerprint(url) for name, url in urls.items()}


def _facts(loaded: LoadedEngine, place: Place) -> Loaded:
    base = loaded.base
    return Loaded(
        version=version_of("headway"),
        architecture=base.info.architecture,
        num_parameters=base.info.num_parameters,
        dtype=base.info.dtype,
        device=loaded.devices,
        ranks=place.ranks.size,
        kernel=base.kernel,
        products=base.product_dtype,
        threads=loaded.threads,
        context_length=base.info.context_length,
        lora_targets=base.lora_targets(LoraConfig()),
        tokens_per_s=loaded.tokens_per_s,
        tokens_per_s_by="measured on a short pass",
        pictures=base.info.pictures,
    )


def _show_memory(
    metrics: TrainerMetrics, engine: TrainingEngine | DistributedEngine, worker: Worker, place: Place
) -> None:
    """What is asked for when somebody scrapes."""
    metrics.show("headway_trainer_ranks", "Processes that compute together", [], lambda: [((), place.ranks.size)])
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
    if (encoded := engine.encoded()) is not None:
        _show_pictures(metrics, lambda: engine.encoded() or encoded)
    metrics.show(
        "headway_trainer_device_bytes",
        "The GPU's memory; of several ranks, rank 0's",
        ["state"],
        lambda: device_memory(place.device),
    )


def _show_pictures(metrics: TrainerMetrics, so_far: Callable[[], Encoded]) -> None:
    """Of a base that sees."""
    metrics.count(
        "headway_trainer_pictures",
        "Pictures that passes showed: encoded by the tower, or reused from what was kept; of several ranks, rank 0's",
        ["outcome"],
        lambda: [(("encoded",), so_far().encoded), (("reused",), so_far().reused)],
    )
    metrics.count(
        "headway_trainer_picture_seconds",
        "Seconds of encoding pictures, a part of forward",
        [],
        lambda: [((), so_far().seconds)],
    )
    metrics.show("headway_trainer_feature_bytes", "What is kept of pictures", [], lambda: [((), so_far().num_bytes)])


def _leave_after(idle_exit_s: float | None, keeper: LeaseKeeper) -> Callable[[float], bool]:
    """Whether a trainer without work for so long has left."""

    def leave(idle_s: float) -> bool:
        return idle_exit_s is not None and idle_s >= idle_exit_s and keeper.leave_if_idle()

    return leave
