"""The README's table, from the JSON line of a race in a file: `python -m bench.peers.readme_table FILE`."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def markdown(race: Mapping[str, Any], load: str = "idle") -> str:
    """A row a workload: the median wall time of a step of each contender, and how many times longer others take."""
    workloads: Mapping[str, Any] = race[load]
    names = list(next(iter(workloads.values()))["contenders"])
    lines = ["| " + " | ".join(["batch", *names]) + " |", "| " + " | ".join(["---"] * (len(names) + 1)) + " |"]
    lines += [_row(title, found["contenders"], names) for title, found in workloads.items()]
    return "\n".join(lines)


def _row(title: str, contenders: Mapping[str, Any], names: Sequence[str]) -> str:
    return "| " + " | ".join([title, *(_cell(contenders.get(name, {})) for name in names)]) + " |"


def _cell(figures: Mapping[str, Any]) -> str:
    if "seconds" not in figures:
        return "–"
    seconds = statistics.median(figures["seconds"])
    wall = f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
    faster = figures.get("headway_times_faster")
    return f"{wall} ({faster['median']:.2f}×)" if faster else f"**{wall}**"


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))
