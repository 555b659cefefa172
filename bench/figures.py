"""What a bench found, as one JSON line and in a file, with the machine that it was found on beside it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_LOAD_AT_START = os.getloadavg()
"""When this was imported, which is before a bench does anything."""


def machine() -> dict[str, Any]:
    """The cores that this process may use, and of what kind; load averages of 1, 5 and 15 minutes before the bench and
    now; versions."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "load_before": _rounded(_LOAD_AT_START),
        "load_after": _rounded(os.getloadavg()),
        "torch": _version("torch"),
        "python": platform.python_version(),
    }


def write_figures(bench: str, figures: Mapping[str, Any], out: Path | None = None) -> None:
    """Print one JSON line, and write it to `out`, where others see the whole file or the one before."""
    found = {"bench": bench, **machine(), **figures}
    print(json.dumps(found), flush=True)
    if out is not None:
        save_figures(bench, figures, out)


def save_figures(bench: str, figures: Mapping[str, Any], out: Path) -> None:
    """Only to the file: of a bench that is not done yet."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial")
    partial.write_text(json.dumps({"bench": bench, **machine(), **figures}, indent=1) + "\n")
    partial.replace(out)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _rounded(load: tuple[float, float, float]) -> list[float]:
    return [round(average, 2) for average in load]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
