"""What a box with the tiny base takes of the machine's memory after it has started: PSS of each process, by plane.

    python -m bench.start_memory --out bench/results/start-memory.json

Starts one, lets it come to rest, adds up. The runner's processes and `headway up` itself are shown apart. Exits 0 if
server, trainer, sampler, what these two are forked from, and PostgreSQL together stay below 0.8 GiB.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.figures import write_figures
from bench.planes import command_of, processes_by_plane, pss_mib
from bench.trainee import TINY_BASE
from tests.e2e.box import Box

MOST_MIB = 0.8 * 1024
_SUMMED = ("server", "trainer", "sampler", "fork_server", "postgres")
REST_S = 10.0


def main() -> int:
    """Measure, print, write."""
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.start_memory", description=about)
    parser.add_argument("--out", type=Path, help="file for the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # PostgreSQL may be another user
        box = Box(Path(folder) / "data", TINY_BASE).start()
        try:
            time.sleep(REST_S)
            found = memory_of(box)
        finally:
            box.stop()
    write_figures("start_memory", found, args.out)
    return 0 if found["sum_mib"] <= MOST_MIB else 1


def memory_of(box: Box) -> dict[str, Any]:
    """PSS in MiB by plane, printed too, and the sum that is looked at."""
    assert box.process is not None
    planes = dict[str, list[tuple[float, str]]]()
    for plane, pid in processes_by_plane(box.process.pid):
        planes.setdefault(plane, []).append((round(pss_mib(pid), 1), command_of(pid)))
    for plane, processes in planes.items():
        print(f"{plane:<11} {sum(mib for mib, _ in processes):>7.1f} MiB in {len(processes)} processes")
        for mib, command in sorted(processes, reverse=True):
            print(f"            {mib:>7.1f}      {command[:90]}")
    totals = {plane: round(sum(mib for mib, _ in processes), 1) for plane, processes in planes.items()}
    total = round(sum(totals.get(plane, 0.0) for plane in _SUMMED), 1)
    print(f"{'sum':<11} {total:>7.1f} MiB of {', '.join(_SUMMED)}")
    return {"sum_mib": total, "planes_mib": totals}


if __name__ == "__main__":
    sys.exit(main())
