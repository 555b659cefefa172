"""Composition root of the trainer process."""

from __future__ import annotations

import gc
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import structlog

from store.blobs import BlobStore
from store.catalog import base_by_slug, describe_base
from store.checkpoint_stores import open_checkpoint_store
from store.database import Database
from store.planes import register_trainer
from trainer.base_model import load_base_model
from trainer.engine import EngineSettings, TrainingEngine
from trainer.heap import keep_freed_memory
from trainer.lease_keeper import LeaseKeeper
from trainer.worker import Worker, WorkerSettings
from wire.threads import threads_for

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """Where things are, and which base to train on."""

    database_url: str
    base_slug: str
    checkpoint_store_url: str
    blob_root: Path
    threads: int
    device: str
    max_tokens_per_pass: int = 16384
    max_activation_gib: float | None = None
    max_resident_gib: float | None = None
    max_grad_norm: float | None = None


def run(settings: TrainerSettings) -> None:
    """Train until SIGTERM or SIGINT. Raises NotFound for an unknown base, OSError or ValueError for weights that
    do not load."""
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())

    keep_freed_memory()
    database = Database(settings.database_url)
    with database.session() as session:
        base = base_by_slug(session, settings.base_slug)
    assert base.weights is not None
    weights = load_base_model(base.weights, device=_device(settings.device))
    threads = settings.threads or threads_for(weights.info.num_parameters)
    engine = TrainingEngine(weights, _engine_settings(settings, threads))
    with database.session() as session:
        describe_base(session, base.id, engine.info)
        trainer_id = register_trainer(session, base.id, engine.losses)

    keeper = LeaseKeeper(database, trainer_id)
    worker = Worker(
        database,
        BlobStore(settings.blob_root),
        open_checkpoint_store(settings.checkpoint_store_url),
        engine,
        WorkerSettings(base.id, trainer_id),
    )
    gc.collect()
    gc.freeze()  # what was loaded so far stays: a full collection through torch's modules would hold a step up
    log.info("trainer_ready", base=settings.base_slug, trainer=str(trainer_id))
    try:
        worker.run(stop)
    finally:
        keeper.close()
        database.close()
        log.info("trainer_stopped")


def _engine_settings(settings: TrainerSettings, threads: int) -> EngineSettings:
    return EngineSettings(
        max_tokens_per_pass=settings.max_tokens_per_pass,
        max_activation_bytes=_bytes(settings.max_activation_gib),
        threads=threads,
        max_grad_norm=settings.max_grad_norm,
        max_resident_bytes=_bytes(settings.max_resident_gib),
    )


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)


def _device(name: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
