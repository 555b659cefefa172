"""A minute of what `make chaos` does for as long as one likes."""

from __future__ import annotations

import pytest

from tests.chaos.box import PLANES, Box
from tests.chaos.faults import ANY_TIME, Fault
from tests.chaos.run import KEYLESS_PARTS, RunReport, differences, run

pytestmark = pytest.mark.chaos

SEED = 0
DEATHS = [
    [Fault("trainer", "complete:after-commit", 2, "kill"), Fault("server", "append:after-commit", 2, "kill")],
    [Fault("trainer", "step:before-commit", 2, "stop"), Fault("sampler", "load:after-load", 1, "kill")],
    [Fault("trainer", "settle:before-fsync", 1, "kill"), Fault("server", "reply:after-take", 2, "stop")],
    [Fault("trainer", "step:before-adamw", 3, "kill"), Fault("trainer", "settle:before-folder-fsync", 2, "kill")],
    [Fault("postgres", ANY_TIME, 20, "kill"), Fault("backend", ANY_TIME, 20, "kill")],
]


@pytest.fixture(scope="module")
def undisturbed(chaos_box: Box) -> RunReport:
    return run(chaos_box, SEED)


def test_undisturbed_runs_of_one_program_are_alike_and_those_of_two_are_not(chaos_box: Box, undisturbed: RunReport):
    assert differences(run(chaos_box, SEED), undisturbed) == []
    assert differences(run(chaos_box, SEED + 1), undisturbed)
    assert all(chaos_box.seen(plane) for plane in PLANES)


@pytest.mark.parametrize("faults", DEATHS, ids=lambda faults: ", ".join(f"{f.process} {f.action}" for f in faults))
def test_deaths_leave_no_trace(chaos_box: Box, undisturbed: RunReport, faults: list[Fault]):
    report = run(chaos_box, SEED, faults)
    assert report.points, "nobody died"
    assert differences(report, undisturbed) == []


def test_deaths_leave_no_trace_while_passes_are_written_down_beside_the_engine(chaos_box: Box, undisturbed: RunReport):
    """For others always wait."""
    deaths = [Fault("trainer", f"complete:{when}-commit", 9, "kill") for when in ("before", "after")]
    report = run(chaos_box, SEED, deaths, num_neighbours=2)
    assert report.points, "nobody died"
    assert differences(report, undisturbed) == []


def test_a_client_without_keys_that_sends_lost_calls_again_gets_the_same_tree(chaos_box: Box, undisturbed: RunReport):
    deaths = [Fault("server", "append:after-commit", 2, "kill"), Fault("server", "reply:after-take", 3, "kill")]
    report = run(chaos_box, SEED, deaths, with_keys=False)
    assert report.points, "nobody died"
    assert differences(report, undisturbed, KEYLESS_PARTS) == []
