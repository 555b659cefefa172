"""What a long campaign has done so far, a line of JSON for each death: it can be stopped and goes on from there."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.chaos.faults import Fault
from tests.chaos.run import Point, RunReport


class Ledger:
    """Lines are appended when a run has ended, since only then it is known whether it was disturbed without harm."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._path.read_text().splitlines()] if self._path.exists() else []

    def append(self, report: RunReport, wrong: list[str]) -> None:
        with self._path.open("a") as file:
            for point in report.points:
                file.write(json.dumps(_row(report, point, wrong)) + "\n")


def _row(report: RunReport, point: Point, wrong: list[str]) -> dict[str, Any]:
    """`wrong` is of the whole run, in which several points share the blame."""
    return {
        "seed": report.seed,
        "with_keys": report.with_keys,
        **asdict(point.fault),
        "process": point.fault.victim,
        **asdict(point.recovery),
        "recovered": point.recovered,
        "violations": point.violations,
        "identical": not wrong,
        "run": wrong[:5],
    }


def done_faults(rows: Iterable[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {(row["process"], row["point"], row["action"]) for row in rows}


def identity(fault: Fault) -> tuple[str, str, str]:
    return fault.victim, fault.point, fault.action


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By process, point and action, and how long recoveries took."""
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        cells[row["process"], row["point"], row["action"]].append(row)
    return {
        "deaths": len(rows),
        "recovered": sum(row["recovered"] for row in rows),
        "identical": sum(row["identical"] for row in rows),
        "without_keys": sum(not row.get("with_keys", True) for row in rows),
        "violations": sum(len(row["violations"]) for row in rows),
        **_takeovers(rows),
        "table": [_cell(key, cells[key]) for key in sorted(cells)],
        "seconds": {
            f"{process} {action} {name}": figures
            for process, action in sorted({(row["process"], row["action"]) for row in rows})
            for name in ("recovered_s", "takeover_s")
            if (figures := _figures(row[name] for row in rows if (row["process"], row["action"]) == (process, action)))
        },
    }


def _takeovers(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """How often a trainer of so many ranks was followed by one of so many others."""
    pairs = Counter("{} to {}".format(*row.get("num_ranks", (1, 1))) for row in rows)
    return {"takeovers": dict(sorted(pairs.items()))} if len(pairs) > 1 else {}


def as_text(found: dict[str, Any]) -> Iterator[str]:
    yield f"{'process':9} {'point':28} {'action':6} {'runs':>5} {'recovered':>9} {'identical':>9}"
    for row in found["table"]:
        yield (
            f"{row['process']:9} {row['point']:28} {row['action']:6} "
            f"{row['runs']:5} {row['recovered']:9} {row['identical']:9}"
        )
    yield f"{'all':45} {found['deaths']:5} {found['recovered']:9} {found['identical']:9}"
    for name, figures in found["seconds"].items():
        yield f"{name:32} median {figures['median']:6.2f} s  p90 {figures['p90']:6.2f} s  of {figures['of']}"


def _cell(key: tuple[str, str, str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    counts = {name: sum(row[name] for row in rows) for name in ("recovered", "identical")}
    return {"process": key[0], "point": key[1], "action": key[2], "runs": len(rows), **counts}


def _figures(seconds: Iterable[float | None]) -> dict[str, float] | None:
    known = sorted(s for s in seconds if s is not None)
    if not known:
        return None
    p90 = quantiles(known, n=10)[-1] if len(known) > 1 else known[0]
    return {"median": round(median(known), 3), "p90": round(p90, 3), "of": len(known)}
