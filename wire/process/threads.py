"""How many CPU threads torch uses for a model, and how they wait for one another."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

_TINY_PARAMETERS = 20_000_000


def threads_for(num_parameters: int, num_processes: int = 1) -> int:
    """All cores, divided among so many processes, but one for a tiny model: its matrices end before a second thread
    has woken up (measured: a model of hidden size 128 is slower on two threads than on one, several times so when the
    cores are shared)."""
    return 1 if num_parameters < _TINY_PARAMETERS else max(1, (os.cpu_count() or 1) // num_processes)


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have OpenMP threads sleep while they wait for one another, here and in processes started from here.

    Call before torch is loaded: the runtime reads OMP_WAIT_POLICY once, when its library is. By default a thread spins
    at a barrier (libgomp: 300,000 times, LLVM's: 200 ms), and on a busy machine it spins in the time of the very thread
    that it waits for. The policy sets both runtimes to 0, unless GOMP_SPINCOUNT or KMP_BLOCKTIME says else; a policy
    that is set already stays.
    """
    environment.setdefault("OMP_WAIT_POLICY", "passive")
