"""A rank other than 0: it computes what rank 0 sends, and ends with it. It leases nothing, and has no database."""

from __future__ import annotations

import gc
import signal

import structlog

from trainer.distributed.engine import follow
from trainer.distributed.group import end_group
from trainer.distributed.world import World
from trainer.engine.device_memory import device_name
from trainer.engine.heap import keep_freed_memory
from trainer.loading import Place, load_engine
from trainer.settings import TrainerSettings

log = structlog.get_logger(__name__)


def follow_leader(settings: TrainerSettings, world: World) -> None:
    """Until rank 0 sends no more. Raises DeviceLost once it is gone, ValueError where there is no device for this rank,
    and what rank 0 raises for a base that does not load."""
    keep_freed_memory()
    place = Place.take(settings, world)
    assert place.group is not None
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)  # all ranks get them, and rank 0 needs the others to finish
    loaded = load_engine(settings, None, place)
    log.info("rank_ready", device=device_name(loaded.base.device))
    gc.collect()
    gc.freeze()
    follow(loaded.engine, place.group)
    end_group()
