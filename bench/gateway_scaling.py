"""Whether several gateway processes carry more than one: `bench.gateway` with 1, 2, 3, each held to a share of a core.

    python -m bench.gateway_scaling [--worker-cores 0.05] [--out FILE]

On a machine with few cores, processes without a limit would take the cores from one another, from the clients and from
PostgreSQL. With a limit, all of them together stay below one core, and what differs is their number. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.figures import write_figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--worker-cores", type=float, default=0.05)
    parser.add_argument("--rollouts", type=int, default=192)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--out", type=Path, default=Path(f"bench/results/gateway-scaling-{os.cpu_count()}-cores.json"))
    options = parser.parse_args()
    rows = [_measured(workers, options) for workers in options.workers]
    first = rows[0]["requests_per_s"]
    print(f"{'processes':>10}{'requests/s':>12}{'times':>8}{'cores used':>12}{'errors':>8}")
    for row in rows:
        row["times"] = round(row["requests_per_s"] / first, 2)
        shown = (row["requests_per_s"], row["times"], row["gateway_cores_used"], row["errors"])
        print(f"{row['workers']:>10}{shown[0]:>12}{shown[1]:>8}{shown[2]:>12}{shown[3]:>8}")
    settings = {name: getattr(options, name) for name in ("worker_cores", "rollouts", "seconds")}
    write_figures("gateway_scaling", {**settings, "rows": rows}, options.out)


def _measured(workers: int, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.gateway", "--kinds", "rollout", "--workers", str(workers)]
    for name in ("worker_cores", "rollouts", "seconds"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bench.gateway ended with status {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    seen = json.loads(done.stdout.splitlines()[-1])
    at_once, at_60_percent = (seen["headway rollout"][phase] for phase in ("at_once", "at_60_percent"))
    return {
        "workers": workers,
        "requests_per_s": at_once["requests_per_s"],
        "errors": at_once["errors"] + at_60_percent["errors"],
        "gateway_cores_used": at_once["gateway_cores_used"],
        "gateway_cpu_ms_per_request": at_once["gateway_cpu_ms_per_request"],
        "added_ms_at_60_percent": at_60_percent["added_ms"],
        "load_before": seen["load_before"],
    }


if __name__ == "__main__":
    main()
