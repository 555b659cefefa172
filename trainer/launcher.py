"""The process that has several ranks of this host run, and computes nothing itself."""

from __future__ import annotations

import os
import socket

import structlog
import torch

from store.database import DATABASE_AWAY, Database
from store.oplog.leaving import release_dead
from trainer.distributed.launch import launch
from trainer.distributed.world import World
from trainer.settings import TrainerSettings

log = structlog.get_logger(__name__)

_BEYOND_GRACE_S = 5.0
"""After `stop_grace_s` rank 0 hands its leases back, and ends."""


def launch_ranks(settings: TrainerSettings) -> None:
    """Run `settings.gpus` ranks until they have ended. Raises ValueError where there are not so many GPUs,
    ChildProcessError with which rank failed, and how."""
    last = World(settings.gpus - 1, settings.gpus, settings.gpus - 1, settings.gpus)
    last.device(settings.device, torch.cuda.device_count())
    try:
        launch(settings.gpus, settings.stop_grace_s + _BEYOND_GRACE_S)
    finally:
        _release_leases(settings.database_url)


def _release_leases(database_url: str) -> None:
    """Of a rank 0 that could not do it itself: nobody waits until they run out. It is registered by our pid."""
    database = Database(database_url, pool_size=1)
    try:
        with database.connection() as connection:
            release_dead(connection, socket.gethostname(), os.getpid())
    except DATABASE_AWAY:
        log.warning("leases_not_released", reason="the database is away; they run out by themselves")
    finally:
        database.close()
