"""TRL: the loss of its GRPO trainer and AdamW, in one process, of this environment, which pins it."""

from __future__ import annotations

import sys

from bench.peers.contender import RANK, Contender, Place, Running
from bench.peers.environments import ROOT


def _start(place: Place, running: Running) -> None:
    command = [sys.executable, "-m", "bench.peers.trl_driver", str(place.base), str(RANK)]
    running.drive(command, {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}, is_contender=True)


CONTENDER = Contender(
    "trl", "no service: nothing crosses a process, is logged or saved; one model a process", _start, max_models=1
)
