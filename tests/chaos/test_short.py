"""A minute of what `make chaos` does for as long as one likes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.box import PLANES, Box
from tests.chaos.disturbance import Disturbance
from tests.chaos.driver import open_box
from tests.chaos.faults import ANY_TIME, Fault
from tests.chaos.invariants import of_database
from tests.chaos.pipelined_loop import NUM_STEPS, Loop
from tests.chaos.run import KEYLESS_PARTS, RunReport, differences, run
from tests.chaos.saboteur import noticed_in

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


# Pipelined loops: what is saved in the end is that of a loop that nobody disturbed, to the bit.


LOOP_DEATHS = [
    [Fault("trainer", "node:before-commit", 3, "kill"), Fault("trainer", "step:before-adamw", 2, "kill")],
    [Fault("trainer", "node:after-commit", 5, "kill"), Fault("trainer", "complete:before-commit", 2, "kill")],
    [Fault("trainer", "saved:before-commit", 1, "kill"), Fault("trainer", "publish:after-rename", 1, "kill")],
]
MORE_LOOP_DEATHS = [
    [Fault("trainer", "step:after-adamw", 4, "stop"), Fault("trainer", "complete:after-commit", 3, "kill")],
    [Fault("trainer", "saved:after-commit", 2, "kill"), Fault("trainer", "node:before-commit", 1, "stop")],
]


@pytest.fixture(scope="module")
def undisturbed_loop(chaos_box: Box) -> dict[str, object]:
    loop = Loop(chaos_box)
    for half in (1, 0):
        loop.send(half)
    loop.wait()
    outcome = loop.outcome()
    assert set(outcome) == {"norms", "000004", f"{NUM_STEPS - 1:06d}"}
    return outcome


@pytest.mark.parametrize(
    "faults",
    [*LOOP_DEATHS, *(pytest.param(faults, marks=pytest.mark.slow) for faults in MORE_LOOP_DEATHS)],
    ids=lambda faults: ", ".join(f"{f.point} {f.action}" for f in faults),
)
def test_a_pipelined_loop_ends_in_the_same_bits_wherever_its_trainer_dies(
    chaos_box: Box, undisturbed_loop: dict[str, object], faults: list[Fault]
):
    loop = Loop(chaos_box)
    disturbance = Disturbance(chaos_box, loop.num_ended, loop.is_over)
    for half, fault in enumerate(faults):
        sender = threading.Thread(target=loop.send, args=(half,))
        sender.start()
        assert disturbance.inflict(fault), "nobody died"
        sender.join()
    loop.wait()
    assert loop.outcome() == undisturbed_loop
    assert of_database(chaos_box) == []


def test_a_trainer_that_dies_while_it_computes_steps_again_leaves_the_same_bits(
    chaos_box: Box, undisturbed_loop: dict[str, object]
):
    loop = Loop(chaos_box)
    disturbance = Disturbance(chaos_box, loop.num_ended, loop.is_over)
    first = chaos_box.pid("trainer")
    with ThreadPoolExecutor() as threads:
        sent = threads.submit(loop.send, 0)
        died = threads.submit(disturbance.inflict, Fault("trainer", "node:after-commit", 5, "kill"))
        while chaos_box.pid("trainer") == first and not died.done():
            time.sleep(0.01)
        time.sleep(0.1)  # the death is noticed, and the successor still starts
        died_again = disturbance.inflict(Fault("trainer", "recompute:before-step", 1, "kill"))
        assert died.result(), "nobody died"
        assert died_again, "nobody died again"
        sent.result()
    loop.send(1)
    loop.wait()
    assert loop.outcome() == undisturbed_loop
    assert of_database(chaos_box) == []


# What the harness says when a promise is switched off.


@pytest.fixture(scope="module")
def box_of_broken_promises() -> Iterator[Box]:
    """Of its own: what is wrong in the database stays."""
    with open_box() as box:
        yield box


@pytest.mark.parametrize("promise", ["replay", "fencing"])
def test_a_promise_that_is_switched_off_is_noticed(box_of_broken_promises: Box, undisturbed: RunReport, promise: str):
    box_of_broken_promises.break_promise(promise)
    try:
        assert noticed_in(box_of_broken_promises, undisturbed, promise)
    finally:
        box_of_broken_promises.break_promise(None)
