"""What a race found, as a table a workload and as one JSON line."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from bench.clock import ratio
from bench.peers.contender import Contender
from bench.peers.race import Found

HEADWAY = "headway"

_COLUMNS = (
    f"{'':10}{'wall':>10}{'(least–most)':>18}{'processor':>11}{'headway is':>12}{'(least–most)':>15}"
    f"{'peak':>10}{'at rest':>10}"
)


def table(title: str, found: Mapping[str, Found]) -> str:
    """One line a contender."""
    return "\n".join([title, _COLUMNS, *(_line(name, one, found.get(HEADWAY)) for name, one in found.items())])


def differences(contenders: Sequence[Contender], absent: Mapping[str, str]) -> str:
    """What a step of each leaves undone, and who is not there."""
    lines = ["what a step does not do:"]
    lines += [f"  {one.name:10}{one.does_not}" for one in contenders]
    lines += ["not in the race:", *(f"  {name:10}{reason}" for name, reason in absent.items())] if absent else []
    return "\n".join(lines)


def to_json(found: Mapping[str, Found]) -> dict[str, object]:
    """Of one workload, by contender."""
    return {name: dict(_figures(one, found.get(HEADWAY))) for name, one in found.items()}


def times_faster(headway: Found | None, other: Found) -> dict[str, float] | None:
    """How many times longer the other takes, round by round: median, least, most. None where one has no rounds."""
    if headway is None or headway.missing or other.missing or not other.seconds:
        return None
    return ratio(other.seconds, headway.seconds)


def _line(name: str, one: Found, headway: Found | None) -> str:
    if one.missing:
        return f"{name:10}  – {one.missing}"
    wall, cpu = statistics.median(one.seconds), statistics.median(one.cpu_s)
    spread = f"({_short(min(one.seconds))}–{_short(max(one.seconds))})"
    faster = times_faster(headway, one)
    ratios = f"{faster['median']:>11.2f}×{faster['min']:>8.2f}–{faster['max']:.2f}" if faster else f"{'–':>12}{'':>12}"
    if name == HEADWAY:
        ratios = f"{'':24}"
    return (
        f"{name:10}{_short(wall):>10}{spread:>18}{_short(cpu):>11}{ratios:27}"
        f"{one.peak_mib:>7.0f} MiB{one.rest_mib:>6.0f} MiB"
    )


def _figures(one: Found, headway: Found | None) -> Iterator[tuple[str, object]]:
    if one.missing:
        yield "missing", one.missing
        return
    yield "seconds", [round(value, 4) for value in one.seconds]
    yield "cpu_s", [round(value, 4) for value in one.cpu_s]
    yield "peak_mib", round(one.peak_mib)
    yield "rest_mib", round(one.rest_mib)
    faster = times_faster(headway, one)
    if faster and one is not headway:
        yield "headway_times_faster", {name: round(value, 2) for name, value in faster.items()}


def _short(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
