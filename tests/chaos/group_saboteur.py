"""Proof that the harness would notice ranks that do not keep what they promise one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.chaos.box import Box
from tests.chaos.faults import Fault
from tests.chaos.groups import Sizes, alone, open_group_box, replace_trainer
from tests.chaos.run import RunReport, differences, run

SEED = 0
_LAST_STEP = Fault("trainer", "step:before-adamw", 2, "kill", 0)
"""Of two models that make one step each: all gradients are acknowledged then, and the next trainer computes them again.
"""
_GROUP_ENDED = "rank of this trainer is gone or stands still"


def undisturbed_step(box: Box, sizes: Sizes) -> RunReport:
    """What `noticed_in` compares with."""
    return alone(box, sizes, SEED, num_steps=1)


def replayed_by_others(box: Box, sizes: Sizes) -> RunReport:
    """Two ranks die before the last step; one process with passes of another size replays, and makes it."""
    sizes.fixed, given = 2, sizes.max_tokens_per_pass
    replace_trainer(box)
    sizes.fixed, sizes.max_tokens_per_pass = 1, 3 * given
    try:
        report = run(box, SEED, [_LAST_STEP], num_steps=1)
    finally:
        sizes.fixed, sizes.max_tokens_per_pass = None, given
        replace_trainer(box)
    assert report.points, "nobody died"
    return report


def noticed_in(box: Box, sizes: Sizes, undisturbed: RunReport, name: str) -> list[str]:
    """What the harness has to say about trainers that are sabotaged."""
    return BROKEN[name](box, sizes, undisturbed)


def noticed(name: str) -> list[str]:
    """As a user of the driver asks."""
    sizes = Sizes(SEED)
    with open_group_box(sizes) as box:
        return noticed_in(box, sizes, undisturbed_step(box, sizes), name)


def _settings(box: Box, sizes: Sizes, undisturbed: RunReport) -> list[str]:
    with _broken(box, sizes, "settings"):
        report = replayed_by_others(box, sizes)
    return differences(report, undisturbed)


def _order(box: Box, sizes: Sizes, undisturbed: RunReport) -> list[str]:
    sizes.fixed = 2
    with _broken(box, sizes, "order"):
        report = run(box, SEED, num_steps=1)
    return differences(report, undisturbed)


def _vote(box: Box, sizes: Sizes, undisturbed: RunReport) -> list[str]:
    """The end of the group that leaves a vote out. What it did before, it did right."""
    sizes.fixed = 2
    with _broken(box, sizes, "vote"):
        replace_trainer(box)
        box.break_promise(None, at_once=False)  # of this group alone, or none would ever come past that vote
        died_before, said_before = len(box.deaths), len(box.log("trainer"))
        report = run(box, SEED, num_steps=1)
    assert not differences(report, undisturbed)
    said = box.log("trainer")[said_before:].splitlines()
    return [line for line in said if _GROUP_ENDED in line] if len(box.deaths) > died_before else []


@contextmanager
def _broken(box: Box, sizes: Sizes, name: str) -> Iterator[None]:
    box.break_promise(name)
    try:
        yield
    finally:
        sizes.fixed = None
        box.break_promise(None)


BROKEN: dict[str, Callable[[Box, Sizes, RunReport], list[str]]] = {
    "order": _order,
    "vote": _vote,
    "settings": _settings,
}
