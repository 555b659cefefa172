"""What a demo says of its run."""

from __future__ import annotations

import pytest

from examples.figures import HeldOutScore, RunFigures, StepFigures


def run(rewards: list[float], greedy: list[float], **settings: object) -> RunFigures:
    steps = [
        StepFigures(number, reward, 64, 0, 1000, 1.0, 1.0, 0.1, None, str(number), {})
        for number, reward in enumerate(rewards, 1)
    ]
    scores = [HeldOutScore(10 * number, score, 48) for number, score in enumerate(greedy)]
    return RunFigures(dict(settings), steps=steps, held_out=scores)


@pytest.mark.parametrize(
    ("settings", "climbed"), [({}, False), ({"end_above": 0.85}, False), ({"end_above": 0.65}, True)]
)
def test_a_run_is_judged_by_the_bar_of_its_settings(settings: dict[str, object], climbed: bool):
    found, sentence = run([0.1, *[0.8] * 5], [0.2, 0.8], **settings).verdict()
    assert found == climbed
    assert sentence.startswith("climbed" if climbed else "did NOT climb")
    assert ("above 0.65 from step 5" in sentence) == climbed


@pytest.mark.parametrize(
    ("rewards", "greedy"),
    [([0.1, *[0.5] * 5], [0.2, 0.8]), ([0.5, *[0.9] * 5], [0.2, 0.8]), ([0.1, *[0.9] * 5], [0.8, 0.2])],
)
def test_it_has_not_climbed_from_high_up_or_to_the_middle_or_on_the_trained_problems_alone(rewards, greedy):
    assert not run(rewards, greedy, end_above=0.65).verdict()[0]
