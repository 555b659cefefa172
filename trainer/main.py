"""Composition root of the trainer: a process that computes alone, a rank of a group, or the launcher of a group.

Imports no torch by itself: a launcher has no use for transformers, nor a follower for the database. `python -m
trainer.main`, by which torchrun starts ranks, is `headway trainer`.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import NoReturn

import structlog

from trainer.distributed.last_words import leave_last_words
from trainer.distributed.world import World
from trainer.settings import TrainerSettings
from wire.errors import HeadwayError
from wire.process.lifeline import end_with_parent
from wire.process.logging import name_process

log = structlog.get_logger(__name__)


def run(settings: TrainerSettings) -> None:
    """Train until SIGTERM or SIGINT, or until there was nothing to do for long; on several GPUs by a rank each.

    Raises NotFound for an unknown base, OSError or ValueError for weights that do not load, ChildProcessError for a
    rank that failed.
    """
    world = World.of(os.environ)
    if world is not None:
        _run_rank(settings, world)
    elif settings.gpus > 1:
        from trainer.launcher import launch_ranks

        launch_ranks(settings)
    else:
        from trainer.leader import lead

        lead(settings)


def _run_rank(settings: TrainerSettings, world: World) -> None:
    name_process(rank=world.rank)
    if world.agent_pid is not None:
        end_with_parent(world.agent_pid, signal.SIGKILL if world.rank else signal.SIGTERM)
    try:
        if world.rank == 0:
            from trainer.leader import lead

            lead(settings, world)
        else:
            from trainer.follower import follow_leader

            follow_leader(settings, world)
    except Exception as error:
        is_bug = not isinstance(error, (HeadwayError, OSError, ValueError))
        log.error("rank_failed", reason=str(error), exc_info=is_bug)
        leave_last_words(error)
        _leave(1)
    _leave(0)


def _leave(status: int) -> NoReturn:
    """End this process without tearing the interpreter down: a thread of gloo may let go of its last tensor meanwhile,
    which is an abort, and reads as a rank that was killed."""
    atexit._run_exitfuncs()  # spans that wait to be sent  # pyright: ignore[reportPrivateUsage]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    os.execv(sys.executable, [sys.executable, "-m", "cli", "trainer", *sys.argv[1:]])  # noqa: S606 - no shell is wanted
