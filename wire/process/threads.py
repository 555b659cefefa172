"""How many CPU threads torch uses for a model, and how they wait for one another."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from wire.process.control_groups import CGROUPS, OWN_CGROUPS, control_groups

_TINY_PARAMETERS = 20_000_000
# As quick as spinning on an idle machine, and as sleeping beside loops: `python -m bench.busy_neighbours`.
_SPINS = 1000


def threads_for(num_parameters: int, num_processes: int = 1) -> int:
    """All cores, divided among so many processes, but one for a tiny model: its matrices end before a second thread
    has woken up (measured: a model of hidden size 128 is slower on two threads than on one, several times so when the
    cores are shared)."""
    return 1 if num_parameters < _TINY_PARAMETERS else max(1, usable_cores() // num_processes)


def usable_cores(cgroups: Path = CGROUPS, own_cgroups: Path = OWN_CGROUPS) -> int:
    """Cores that this process may run on, at most as many as its control groups (v2 or v1) give it time of; one at
    least. Of the machine and its limits alone, never of its load: two undisturbed runs use equally many."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([affinity, *_quotas(cgroups, own_cgroups)])))


def _quotas(cgroups: Path, own_cgroups: Path) -> Iterator[float]:
    """Cores' worth of time, of each group that has a limit."""
    for group, is_v1 in control_groups("cpu", cgroups, own_cgroups):
        quota = _quota_of_v1(group) if is_v1 else _quota_of_v2(group)
        if quota is not None:
            yield quota


def _quota_of_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_of_v1(group: Path) -> float | None:
    try:
        quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return None if quota < 0 else quota / period
    except (OSError, ValueError):
        return None


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have OpenMP threads wait for one another for a moment and then sleep, here and in processes started from here.

    Call before torch is loaded: the runtime reads its variables once, when its library is. By default a thread spins at
    a barrier (libgomp: 300,000 times, LLVM's: 200 ms), and on a busy machine it spins in the time of the very thread
    that it waits for. The passive policy sets both runtimes to 0, where an idle machine spends a third of a pass on
    waking threads up; GOMP_SPINCOUNT sets libgomp's to about the time that the next product of a layer is away. A
    policy or a count that is set already stays.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment["OMP_WAIT_POLICY"] = "passive"
        environment.setdefault("GOMP_SPINCOUNT", str(_SPINS))
