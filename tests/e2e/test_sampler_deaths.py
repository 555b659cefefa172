"""Samplers that die, stop and end beneath a training loop: see `tests.chaos.sampler_deaths`, here a short one."""

from __future__ import annotations

import pytest

from tests.chaos.box import Box
from tests.chaos.sampler_deaths import NUM_SAMPLERS, TINY_BASE, run
from tests.conftest import database_folder

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
def test_no_answer_is_lost_or_stale_while_samplers_are_killed_stopped_and_ended():
    with database_folder() as folder:
        box = Box(folder, TINY_BASE, NUM_SAMPLERS)
        try:
            report = run(box.start(), num_steps=15, seed=1)
        finally:
            box.close()
    assert report.is_good, report
    assert report.steps == 15
