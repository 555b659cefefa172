"""Which rank this process is, as torchrun's environment says. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

LAUNCHER_PID = "HEADWAY_LAUNCHER_PID"
"""The process whose elastic agent started this rank, where that is ours and not `torchrun`."""

_A_RANK = ("RANK", "WORLD_SIZE")
_OF_AN_AGENT = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
"""What an elastic agent sets besides. Wrappers of Slurm and MPI, and operators of Kubernetes, set only some of it."""


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
        """None for a process that computes alone. Raises ValueError for a rank that no elastic agent has started: the
        others would not be found, or each would think that it is the first."""
        if not all(name in environment for name in _A_RANK):
            return None
        if missing := [name for name in _OF_AN_AGENT if name not in environment]:
            raise ValueError(
                f"{' and '.join(_A_RANK)} are set, and {', '.join(missing)} not, so it was not torchrun that set them: "
                "start the ranks by torchrun or headway trainer --gpus N, or unset these two to compute alone"
            )
        places = (int(environment[name]) for name in (*_A_RANK, "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        return cls(*places, agent_pid=_agent_pid(environment))

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


def _agent_pid(environment: Mapping[str, str]) -> int:
    return int(environment[LAUNCHER_PID]) if LAUNCHER_PID in environment else os.getppid()
