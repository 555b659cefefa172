"""What went through the server lately, from its own counters: the difference between now and an earlier look.

Looks are kept for ten minutes, one every few seconds at most, and only while somebody asks; the first one is the start
of the process, when all counters were 0. Workers that share a port are added up.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from server.metrics.workers import families

_RATES_S, _REFUSALS_S, _EVERY_S = 60.0, 600.0, 5.0
_MOST_REFUSALS = 20
_REQUESTS, _TOKENS = "headway_http_request_seconds_count", "headway_gateway_tokens_total"
_CALLS = "headway_gateway_sampler_seconds_sum"
_GAUGES = ("headway_gateway_running", "headway_gateway_waiting", "process_resident_memory_bytes")
_COUNTERS = (_REQUESTS, _TOKENS, _CALLS, "process_cpu_seconds_total")


@dataclass(frozen=True, slots=True)
class Refused:
    """Requests of a route that ended with this status of 400 and above."""

    status: int
    method: str
    route: str
    count: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """Rates over the last `over_s`, refusals of the last `refused_over_s`. num_at_samplers: calls, on average.
    cpu_share: of one core. None: not known of several workers."""

    over_s: float
    requests_per_s: float
    prompt_tokens_per_s: float
    sampled_tokens_per_s: float
    num_at_samplers: float
    num_running: int
    num_waiting: int
    cpu_share: float | None
    memory_bytes: int | None
    refused_over_s: float
    refused: list[Refused]


Totals = Mapping[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    totals: Totals = field(default_factory=dict[tuple[str, ...], float])


class TrafficWatch:
    """Compares the counters of a registry with what they were."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._looks = deque([_Look(time.monotonic())])

    def read(self) -> Traffic:
        """The present figures. Reads files where there are several workers."""
        now = _Look(time.monotonic(), _totals(self._registry))
        while len(self._looks) > 1 and now.at - self._looks[1].at >= _REFUSALS_S:
            self._looks.popleft()
        rates = next((one for one in reversed(self._looks) if now.at - one.at >= _RATES_S), self._looks[0])
        traffic = _compared(rates, self._looks[0], now)
        if now.at - self._looks[-1].at >= _EVERY_S:
            self._looks.append(now)
        return traffic


def _totals(registry: CollectorRegistry) -> Totals:
    totals = dict[tuple[str, ...], float]()
    for family in families(registry):
        for sample in family.samples:
            if sample.name not in (*_GAUGES, *_COUNTERS):
                continue
            labels = sample.labels
            key = (sample.name, *(labels.get(name, "") for name in ("status", "method", "route", "direction")))
            totals[key] = totals.get(key, 0.0) + sample.value
    return totals


def _compared(rates: _Look, refusals: _Look, now: _Look) -> Traffic:
    over_s = max(now.at - rates.at, 1e-3)

    def rate(name: str, direction: str = "") -> float:
        return max(0.0, _sum(now.totals, name, direction) - _sum(rates.totals, name, direction)) / over_s

    memory = _sum(now.totals, "process_resident_memory_bytes")
    return Traffic(
        over_s=over_s,
        requests_per_s=rate(_REQUESTS),
        prompt_tokens_per_s=rate(_TOKENS, "prompt"),
        sampled_tokens_per_s=rate(_TOKENS, "sampled"),
        num_at_samplers=rate(_CALLS),
        num_running=int(_sum(now.totals, "headway_gateway_running")),
        num_waiting=int(_sum(now.totals, "headway_gateway_waiting")),
        cpu_share=rate("process_cpu_seconds_total") if memory and rates.totals else None,
        memory_bytes=int(memory) or None,
        refused_over_s=now.at - refusals.at,
        refused=_refused(refusals.totals, now.totals),
    )


def _sum(totals: Totals, name: str, direction: str = "") -> float:
    return sum(value for key, value in totals.items() if key[0] == name and (not direction or key[4] == direction))


def _refused(before: Totals, now: Totals) -> list[Refused]:
    found = [
        Refused(int(status), method, route, int(value - before.get(key, 0.0)))
        for key, value in now.items()
        for name, status, method, route, _ in [key]
        if name == _REQUESTS and status.isdigit() and int(status) >= 400 and value > before.get(key, 0.0)
    ]
    return sorted(found, key=lambda one: (-one.count, one.route, one.status))[:_MOST_REFUSALS]
