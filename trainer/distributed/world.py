"""Which rank this process is, as torchrun's environment says. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

LAUNCHER_PID = "HEADWAY_LAUNCHER_PID"
"""The process whose elastic agent started this rank, where that is ours and not `torchrun`."""


@dataclass(frozen=True, slots=True)
class World:
    """rank: of `size` processes on one host or several. local_rank: of `local_size` on this host. agent_pid: of the
    process that started it, and watches it; None where nobody does."""

    rank: int
    size: int
    local_rank: int = 0
    local_size: int = 1
    agent_pid: int | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> World | None:
        """None for a process that computes alone."""
        if not {"RANK", "WORLD_SIZE"} <= environment.keys():
            return None
        return cls(
            int(environment["RANK"]),
            int(environment["WORLD_SIZE"]),
            int(environment.get("LOCAL_RANK", "0")),
            int(environment.get("LOCAL_WORLD_SIZE", "1")),
            _agent_pid(environment),
        )

    def device(self, name: str, num_gpus: int) -> str:
        """Of this rank, by `--device`. Raises ValueError where the host has no such one."""
        if name == "cpu" or (name == "auto" and not num_gpus):
            return "cpu"
        if name not in ("auto", "cuda"):
            raise ValueError(
                f"--device {name} names one device, and each rank takes its own: choose GPUs with CUDA_VISIBLE_DEVICES"
            )
        if self.local_rank >= num_gpus:
            raise ValueError(f"{self.local_size} ranks want a GPU each, and this host has {num_gpus}")
        return f"cuda:{self.local_rank}"


ALONE = World(0, 1)
"""The place of a process that computes alone."""


def _agent_pid(environment: Mapping[str, str]) -> int | None:
    if LAUNCHER_PID in environment:
        return int(environment[LAUNCHER_PID])
    return os.getppid() if "TORCHELASTIC_RUN_ID" in environment else None
