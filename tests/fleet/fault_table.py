"""The table of docs/fleet-faults.md, from the figures of `python -m tests.fleet.trials`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.fleet.process import REPOSITORY

FIGURES = REPOSITORY / "bench" / "results" / "fleet-faults-2-cores.json"
_COLUMNS = """\
| fault | where | attempts without an answer | slowest call | calls meanwhile | recovered after | wrong |
| --- | --- | --- | --- | --- | --- | --- |
"""


def table(found: dict[str, Any]) -> str:
    return _COLUMNS + "".join(_row(trial) for trial in found["trials"])


def _row(trial: dict[str, Any]) -> str:
    troubles = ", ".join(f"{count} {name}" for name, count in sorted(trial["troubles"].items())) or "none"
    recovered = "not" if trial["recovered_s"] is None else f"{trial['recovered_s']:.1f} s"
    wrong = "none" if not trial["wrong"] else f"**{len(trial['wrong'])}**: {trial['wrong'][0][:200]}"
    cells = (
        trial["kind"],
        trial["where"],
        troubles,
        f"{trial['longest_s']:.1f} s",
        trial["calls_meanwhile"],
        recovered,
    )
    return "| " + " | ".join(str(cell) for cell in (*cells, wrong)) + " |\n"


def figures(path: Path = FIGURES) -> dict[str, Any]:
    return json.loads(path.read_text())


if __name__ == "__main__":
    sys.stdout.write(table(figures()))
