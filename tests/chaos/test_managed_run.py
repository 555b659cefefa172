"""A managed run whose server dies at every phase of a step goes on there, and ends in the same bits."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.chaos.box import Box
from tests.chaos.managed_run import ENDED, Driven, Left, deploy, differences, go_through, open_box
from tests.chaos.processes import send

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 2
PHASES = ("rolling_out", "training", "promoting", "done")


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with open_box() as box:
        deploy(box)
        yield box


@pytest.fixture(scope="module")
def undisturbed(box: Box) -> Left:
    left = go_through(box, STEPS)
    assert left.wrong == []
    return left


def kill_at(*kinds: str):
    """Trouble: each of the processes dies once in each phase that a step is seen in."""

    def trouble(driven: Driven) -> None:
        seen, deadline = set[tuple[int, str, str]](), time.monotonic() + 600
        while driven.state()["state"] not in ENDED:
            assert time.monotonic() < deadline
            for row in driven.phases():
                key = (row.step, row.kind, row.phase)
                if key not in seen:
                    seen.add(key)
                    for kind in kinds:
                        send(driven.box.pid(kind), signal.SIGKILL)
            time.sleep(0.02)
        assert {phase for _, _, phase in seen} >= {"rolling_out", "done"}

    return trouble


@pytest.mark.parametrize("kinds", [("server",), ("runner-1", "runner-2", "runner-3"), ("postgres", "trainer")])
def test_a_run_whose_processes_die_in_every_phase_leaves_the_same_bits(kinds, box, undisturbed):
    assert differences(go_through(box, STEPS, kill_at(*kinds)), undisturbed) == []


def test_two_undisturbed_runs_leave_the_same_bits(box, undisturbed):
    assert differences(go_through(box, STEPS), undisturbed) == []
