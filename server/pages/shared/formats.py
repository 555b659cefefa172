"""Figures and times as people read them."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

from markupsafe import Markup

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
NOTHING = "–"


def figure(value: Any, digits: int = 4) -> str:
    """Four significant digits: `0.5312`, `1.25e-05`, `12,400`."""
    if value is None or isinstance(value, str):
        return value or NOTHING
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 1e9):
        return f"{int(value):,}".replace("-", "−")
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    text = f"{value:.{digits}g}" if size < 1e-3 or size >= 1e6 else f"{value:,.{_decimals(size, digits)}f}"
    return text.replace("-", "−", 1) if value < 0 else text


def num_bytes(value: int | None) -> str:
    """`1.5 MiB`."""
    if value is None:
        return NOTHING
    size, unit = float(value), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def moment(value: datetime | None) -> str:
    """A time, which scripts turn into `3 min ago`."""
    if value is None:
        return NOTHING
    full = f"{value:%Y-%m-%d %H:%M:%S} {value.tzname() or ''}".strip()
    return Markup('<time datetime="{}" title="{}">{}</time>').format(value.isoformat(), full, f"{value:%Y-%m-%d %H:%M}")


def count(number: int, noun: str) -> str:
    """`1 step`, `2 steps`, `2 batches`."""
    plural = noun if number == 1 else noun + ("es" if noun.endswith(("ch", "s", "x")) else "s")
    return f"{number:,} {plural}"


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 60:
        return f"{max(10, round(seconds, -1)):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _decimals(size: float, digits: int) -> int:
    return max(0, digits - 1 - math.floor(math.log10(size))) if size else 0


FILTERS: dict[str, Callable[..., Any]] = {
    "figure": figure,
    "bytes": num_bytes,
    "moment": moment,
    "count": count,
    "duration": duration,
}
