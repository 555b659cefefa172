"""Deaths over training calls with screenshots: replays read the same pictures, and end in the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.box import Box
from tests.chaos.driver import open_box
from tests.chaos.faults import Fault
from tests.chaos.pictured_program import NUM_STEPS, pictured_program
from tests.chaos.run import RunReport, differences, run
from tests.vision.families import FAMILIES, save_vision_family

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

SEED = 0
DEATHS = [
    [Fault("trainer", "complete:after-commit", 2, "kill"), Fault("trainer", "replay:after-pass", 1, "kill")],
    [Fault("server", "append:after-commit", 2, "kill"), Fault("sampler", "load:after-load", 1, "kill")],
    [Fault("trainer", "step:before-adamw", 2, "kill"), Fault("trainer", "step:before-commit", 2, "stop")],
]

# The database names the pictures of the run before: their blobs stay.
pictured_run = partial(run, num_steps=NUM_STEPS, program_of=pictured_program, forgets_blobs=False)


@pytest.fixture(scope="module")
def seeing_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    base: Path = tmp_path_factory.mktemp("seeing")
    save_vision_family(FAMILIES["qwen3_vl"], base)
    with open_box(base) as box:
        yield box


@pytest.fixture(scope="module")
def undisturbed(seeing_box: Box) -> RunReport:
    return pictured_run(seeing_box, SEED)


def test_undisturbed_runs_are_alike_and_show_their_pictures(seeing_box: Box, undisturbed: RunReport) -> None:
    assert undisturbed.violations == []
    assert differences(pictured_run(seeing_box, SEED), undisturbed) == []
    assert differences(pictured_run(seeing_box, SEED + 1), undisturbed)
    assert seeing_box.query("select count(*) as number from pictures")[0].number > 0


@pytest.mark.parametrize("faults", DEATHS, ids=lambda faults: ", ".join(f"{f.process} {f.point}" for f in faults))
def test_deaths_leave_no_trace(seeing_box: Box, undisturbed: RunReport, faults: list[Fault]) -> None:
    report = pictured_run(seeing_box, SEED, faults)
    assert report.points, "nobody died"
    assert differences(report, undisturbed) == []


def test_a_picture_is_whole_or_not_there_wherever_its_server_dies(seeing_box: Box) -> None:
    """With pictures that nobody has seen: what is stored already is not written again."""
    fresh = SEED + 2
    deaths = [Fault("server", f"blob:{where}", 3, "kill") for where in ("before-rename", "after-folder-fsync")]
    report = pictured_run(seeing_box, fresh, deaths)
    assert report.points, "nobody died"
    assert differences(report, pictured_run(seeing_box, fresh)) == []
