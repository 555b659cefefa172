"""A rank other than 0: it computes what rank 0 sends, and ends with it. It leases nothing, and has no database."""

from __future__ import annotations

import gc
import os
import signal
import threading

import structlog

from trainer.distributed.ending import end_rank
from trainer.distributed.engine import follow
from trainer.distributed.pulse import Pulse
from trainer.distributed.world import World
from trainer.engine.device_memory import device_name
from trainer.engine.heap import Heap
from trainer.loading import Place, load_engine
from trainer.settings import TrainerSettings

log = structlog.get_logger(__name__)


def follow_leader(settings: TrainerSettings, world: World) -> bool:
    """Until rank 0 sends no more; whether because the group shall stop. Raises DeviceLost once it is gone, ValueError
    where there is no device for this rank, and what rank 0 raises for a base that does not load."""
    heap = Heap()
    heap.keep_freed()
    place = Place.take(settings, world)
    assert place.group is not None
    _pass_signals_on(place.group.pulse)
    loaded = load_engine(settings, None, place, heap)
    log.info("rank_ready", device=device_name(loaded.base.device))
    gc.collect()
    gc.freeze()
    heap.return_freed()
    place.group.pulse.watch(0, end_rank)  # a wait for its next call has no limit
    is_stopped = follow(loaded.engine, place.group)
    place.group.end()
    return is_stopped


def _pass_signals_on(pulse: Pulse) -> None:
    """SIGTERM and SIGINT come to all ranks of a host. Rank 0 needs the others to finish, so this one goes on, and has
    rank 0 stop. By a thread: a handler would run when the main one comes back from a collective."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: None)
        signal.siginterrupt(signum, False)

    def pass_on() -> None:
        os.read(reads, 1)
        pulse.ask_to_stop()

    threading.Thread(target=pass_on, name="signals", daemon=True).start()
