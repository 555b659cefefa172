"""Trainers of one and of several ranks, which take over from one another: a few of the deaths of `make chaos-groups`,
and what it says when ranks do not keep what they promise."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.box import Box
from tests.chaos.disturbance import wait_for_ranks
from tests.chaos.faults import Fault
from tests.chaos.group_faults import reaches
from tests.chaos.groups import Sizes, alone, open_group_box, replace_trainer
from tests.chaos.run import RunReport, differences, run

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

SEED = 0
NUM_STEPS = 3
DEATHS = [
    Fault("trainer", "gather:after-issue", 20, "kill", 1),
    Fault("trainer", "sum:before-collect", 1, "stop", 0),
    Fault("trainer", "forward:before-vote", 2, "kill", 0),
    Fault("trainer", "adamw:after-step", 1, "kill", 1),
    Fault("trainer", "sum:before-exchange", 1, "stall", 1),
]
LAST_STEP = Fault("trainer", "step:before-adamw", 2, "kill", 0)
"""Of two models that make one step each: all gradients are acknowledged then, and the next trainer computes them again.
"""


@pytest.fixture(scope="module")
def sizes() -> Sizes:
    return Sizes(SEED)


@pytest.fixture(scope="module")
def box(sizes: Sizes) -> Iterator[Box]:
    with open_group_box(sizes) as box:
        yield box


@pytest.fixture(scope="module")
def undisturbed(box: Box, sizes: Sizes) -> RunReport:
    return alone(box, sizes, SEED, num_steps=NUM_STEPS)


@pytest.fixture(scope="module")
def undisturbed_step(box: Box, sizes: Sizes) -> RunReport:
    return alone(box, sizes, SEED, num_steps=1)


def as_ranks_come(box: Box) -> Iterator[Fault]:
    """Those of the deaths that the trainer of the moment can have."""
    for fault in DEATHS:
        wait_for_ranks(box)
        if reaches(fault, box.num_ranks):
            yield fault


def test_whoever_dies_the_next_group_ends_in_the_bits_of_one_process(box: Box, sizes: Sizes, undisturbed: RunReport):
    sizes.fixed = 2
    replace_trainer(box)
    sizes.fixed = None
    report = run(box, SEED, as_ranks_come(box), num_steps=NUM_STEPS)
    assert len(report.points) > 1, "hardly anybody died"
    assert differences(report, undisturbed) == []


def replayed_by_others(box: Box, sizes: Sizes) -> RunReport:
    """Two ranks die before the last step; one process with passes of another size replays, and makes it."""
    sizes.fixed, given = 2, sizes.max_tokens_per_pass
    replace_trainer(box)
    sizes.fixed, sizes.max_tokens_per_pass = 1, 3 * given
    try:
        return run(box, SEED, [LAST_STEP], num_steps=1)
    finally:
        sizes.fixed, sizes.max_tokens_per_pass = None, given
        replace_trainer(box)


def test_a_group_with_other_settings_replays_by_the_recorded_plan(box: Box, sizes: Sizes, undisturbed_step: RunReport):
    report = replayed_by_others(box, sizes)
    assert report.points, "nobody died"
    assert differences(report, undisturbed_step) == []


def test_settings_of_the_replaying_group_are_noticed(box: Box, sizes: Sizes, undisturbed_step: RunReport):
    box.break_promise("settings")
    try:
        report = replayed_by_others(box, sizes)
    finally:
        box.break_promise(None)
    assert report.points, "nobody died"
    assert any("/files" in text for text in differences(report, undisturbed_step))


def test_a_sum_of_partial_sums_is_noticed(box: Box, sizes: Sizes, undisturbed_step: RunReport):
    sizes.fixed = 2
    box.break_promise("order")
    try:
        report = run(box, SEED, num_steps=1)
    finally:
        sizes.fixed = None
        box.break_promise(None)
    assert any("/files" in text for text in differences(report, undisturbed_step))


def test_a_rank_that_leaves_a_vote_out_ends_its_group(box: Box, sizes: Sizes, undisturbed_step: RunReport):
    sizes.fixed = 2
    box.break_promise("vote")
    try:
        replace_trainer(box)
        box.break_promise(None)  # of this group alone, or none would ever come past that vote
        before, said_before = len(box.deaths), len(box.log("trainer"))
        report = run(box, SEED, num_steps=1)
        assert len(box.deaths) > before
        assert "rank of this trainer is gone or stands still" in box.log("trainer")[said_before:]
    finally:
        sizes.fixed = None
        box.break_promise(None)
    assert differences(report, undisturbed_step) == [], "what a group did before it ended, it did right"
