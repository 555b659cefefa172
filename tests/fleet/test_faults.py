"""A few of the faults that `make fleet-faults` goes through: one of each kind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fleet.faults import Fault, all_faults
from tests.fleet.planes import Planes
from tests.fleet.trials import NUM_STEPS, diagnosis, open_planes, try_fault
from tests.fleet.workload import Result, Workload

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(1200)]
CHOSEN = ("partition: trainer and postgres", "vanished: server-1", "clock +1 h: trainer")


@pytest.fixture(scope="module")
def planes() -> Iterator[Planes]:
    with open_planes() as planes:
        yield planes


@pytest.fixture(scope="module")
def undisturbed(planes: Planes) -> Result:
    return Workload(planes, NUM_STEPS).result()


def test_an_undisturbed_workload_is_as_it_should_be(undisturbed: Result):
    assert undisturbed.wrong == []


@pytest.mark.parametrize(
    "fault", [fault for fault in all_faults() if fault.name in CHOSEN], ids=lambda fault: fault.name
)
def test_a_fault_costs_time_and_nothing_else(planes: Planes, undisturbed: Result, fault: Fault):
    trial = try_fault(planes, fault, undisturbed)
    assert trial.wrong == [], planes.logs()


def test_doctor_finds_nothing_afterwards(planes: Planes):
    assert diagnosis(planes) == []
