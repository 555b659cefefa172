"""README and tutorial, as a reader would paste them."""

from __future__ import annotations

import re

import pytest

from tests.e2e.printed_blocks import carry_out

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000), pytest.mark.usefixtures("tiny_base")]


def test_the_readme_runs_as_it_is_printed() -> None:
    printed = carry_out("README.md")
    assert re.findall(r"^(\d) [01]\.\d", printed, re.MULTILINE) == ["0", "1"], printed


def test_the_tutorial_ends_with_a_model_that_has_learned_the_task() -> None:
    printed = carry_out("docs/tutorial.md")
    rewards = [float(reward) for reward in re.findall(r"^step +\d+ +reward ([\d.]+)", printed, re.MULTILINE)]
    scores = [float(score) for score in re.findall(r"^ +held out ([\d.]+)", printed, re.MULTILINE)]
    assert len(rewards) == 20
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 0.5, rewards
    assert scores[-1] > 0.6, scores
    assert "SUCCEEDED" in printed, "it was deployed"
    assert "completed" in printed or "stopped" in printed, "and the box trained by itself"
