"""Trainers of one and of several ranks, which take over from one another: a few of the deaths of `make chaos-groups`,
and what it says when ranks do not keep what they promise."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.box import Box
from tests.chaos.disturbance import wait_for_ranks
from tests.chaos.faults import ANY_TIME, Fault
from tests.chaos.group_faults import reaches
from tests.chaos.group_saboteur import SEED, noticed_in, replayed_by_others, undisturbed_step
from tests.chaos.groups import Sizes, alone, open_group_box, replace_trainer
from tests.chaos.run import RunReport, differences, run

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

NUM_STEPS = 3
DEATHS = [
    Fault("trainer", "gather:after-issue", 20, "kill", 1),
    Fault("trainer", "sum:before-collect", 1, "stop", 0),
    Fault("trainer", "forward:before-vote", 2, "kill", 0),
    Fault("trainer", "adamw:after-step", 1, "kill", 1),
    Fault("trainer", "sum:before-exchange", 1, "stall", 1),
    Fault("trainer", ANY_TIME, 10, "hang", 0),
]


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
def one_step(box: Box, sizes: Sizes) -> RunReport:
    return undisturbed_step(box, sizes)


def as_ranks_come(box: Box) -> Iterator[Fault]:
    """Those of the deaths that the trainer of the moment can have."""
    for fault in DEATHS:
        wait_for_ranks(box)
        if reaches(fault, box.num_ranks):
            yield fault


def test_points_that_only_one_size_gets_to_are_all_reached():
    sizes = Sizes(SEED, is_of_use=lambda num_ranks: num_ranks == 4)
    assert [sizes()["gpus"] for _ in range(3)] == [4, 4, 4]


def test_whoever_dies_the_next_group_ends_in_the_bits_of_one_process(box: Box, sizes: Sizes, undisturbed: RunReport):
    sizes.fixed = 2
    replace_trainer(box)
    sizes.fixed = None
    report = run(box, SEED, as_ranks_come(box), num_steps=NUM_STEPS)
    assert len(report.points) > 1, "hardly anybody died"
    assert differences(report, undisturbed) == []


def test_a_group_with_other_settings_replays_by_the_recorded_plan(box: Box, sizes: Sizes, one_step: RunReport):
    assert differences(replayed_by_others(box, sizes), one_step) == []


@pytest.mark.parametrize("name", ["settings", "order"])
def test_other_bits_are_noticed(box: Box, sizes: Sizes, one_step: RunReport, name: str):
    assert any("/files" in text for text in noticed_in(box, sizes, one_step, name))


def test_a_rank_that_leaves_a_vote_out_ends_its_group(box: Box, sizes: Sizes, one_step: RunReport):
    assert noticed_in(box, sizes, one_step, "vote")
