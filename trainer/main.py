"""Composition root of the trainer process."""

from __future__ import annotations

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


def run(settings: TrainerSettings) -> None:
    """Train until SIGTERM or SIGINT. Raises NotFound for an unknown base, OSError or ValueError for weights that
    do not load."""
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())

    database = Database(settings.database_url)
    with database.session() as session:
        base = base_by_slug(session, settings.base_slug)
    assert base.weights is not None
    weights = load_base_model(base.weights, device=_device(settings.device))
    threads = settings.threads or threads_for(weights.info.num_parameters)
    engine = TrainingEngine(weights, EngineSettings(threads=threads))
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
    log.info("trainer_ready", base=settings.base_slug, trainer=str(trainer_id))
    try:
        worker.run(stop)
    finally:
        keeper.close()
        database.close()
        log.info("trainer_stopped")


def _device(name: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
