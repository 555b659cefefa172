"""What befalls hosts and the links between them, and how it passes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.fleet.network import Host
from tests.fleet.planes import PLANES, Planes

FAULT_S = 30.0
DELAY_S, LOSS, CLOCK_S = 0.2, 0.01, 3600.0
_PAIRS = (
    ("server-1", "postgres"),
    ("trainer", "postgres"),
    ("sampler-1", "postgres"),
    ("server-1", "s3"),
    ("trainer", "s3"),
    ("sampler-1", "s3"),
    ("server-1", "sampler-1"),
    ("runner-1", "server-1"),
    ("client", "server-1"),
)
_VICTIMS = ("server-1", "trainer", "sampler-1", "runner-1")


@dataclass(frozen=True, slots=True)
class Fault:
    """`begin` inflicts it, `end` lifts it; between them FAULT_S go by."""

    kind: str
    where: str
    begin: Callable[[Planes], object]
    end: Callable[[Planes], object]

    @property
    def name(self) -> str:
        return f"{self.kind}: {self.where}"


def all_faults() -> list[Fault]:
    return [*_partitions(), *_slow_links(), *_vanished(), *_clocks()]


def _host(planes: Planes, name: str) -> Host:
    return planes.network.host(name)


def _heal(planes: Planes) -> None:
    planes.network.heal()


def _partitions() -> Iterator[Fault]:
    for a, b in _PAIRS:
        yield Fault(
            "partition",
            f"{a} and {b}",
            lambda planes, a=a, b=b: planes.network.cut(_host(planes, a), _host(planes, b)),
            _heal,
        )


def _slow_links() -> Iterator[Fault]:
    for name in ("postgres", "s3"):
        yield Fault("delay of 200 ms", f"to {name}", lambda planes, name=name: _delay_all(planes, name), _heal)
    yield Fault("loss of 1 %", "everywhere", _lose_everywhere, _heal)


def _delay_all(planes: Planes, name: str) -> None:
    for plane in PLANES:
        if not plane.startswith("runner"):  # which talks to servers alone
            planes.network.delay(planes.hosts[plane], _host(planes, name), DELAY_S)


def _lose_everywhere(planes: Planes) -> None:
    names = (*PLANES, "postgres", "s3", "client")
    for a, b in itertools.combinations(names, 2):
        planes.network.lose(_host(planes, a), _host(planes, b), LOSS)


def _vanished() -> Iterator[Fault]:
    for name in _VICTIMS:
        yield Fault("vanished", name, lambda planes, n=name: planes.vanish(n), lambda planes, n=name: planes.revive(n))
    yield Fault(
        "vanished", "postgres", lambda planes: planes.vanish_postgres(), lambda planes: planes.revive_postgres()
    )
    yield Fault("vanished", "s3", _cut_off_s3, _heal)


def _cut_off_s3(planes: Planes) -> None:
    """Its process goes on: moto keeps objects in memory alone."""
    for plane in PLANES:
        planes.network.cut(planes.hosts[plane], _host(planes, "s3"))


def _clocks() -> Iterator[Fault]:
    for name, offset_s in itertools.product((*_VICTIMS, "postgres", "s3"), (CLOCK_S, -CLOCK_S)):
        yield Fault(
            f"clock {offset_s / CLOCK_S:+.0f} h",
            name,
            lambda planes, n=name, offset_s=offset_s: _set_clock(planes, n, offset_s),
            lambda planes, n=name: _set_clock(planes, n, 0.0),
        )


def _set_clock(planes: Planes, name: str, offset_s: float) -> None:
    _host(planes, name).clock_offset_s = offset_s
