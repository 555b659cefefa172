"""Composition root of the trainer: a process that computes alone, a rank of a group, or the launcher of a group.

Imports no torch by itself: a launcher has no use for transformers, nor a follower for the database. `python -m
trainer.main`, by which torchrun starts ranks, is `headway trainer`.
"""

from __future__ import annotations

import os
import signal
import sys

from trainer.distributed.ending import end_rank, end_with_the_other_hosts
from trainer.distributed.world import World
from trainer.settings import TrainerSettings
from wire.process.lifeline import end_with_parent
from wire.process.logging import name_process


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

            is_stopped = lead(settings, world)
        else:
            from trainer.follower import follow_leader

            is_stopped = follow_leader(settings, world)
    except Exception as error:
        end_rank(error)
    if is_stopped and world.local_size < world.size:
        end_with_the_other_hosts()
    end_rank()


if __name__ == "__main__":
    os.execv(sys.executable, [sys.executable, "-m", "cli", "trainer", *sys.argv[1:]])  # noqa: S606 - no shell is wanted
