"""The sums that a real model is asked, and going on with a demo that was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.demo_resuming import unfinished
from examples.figures import HeldOutScore, RunFigures, StepFigures
from examples.word_sums.problems import Problem, score, split_problems


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("12", 1.0),
        ("7 + 5 = 12", 1.0),
        ("7 + 5 = 12.", 1.0),
        ("12 is 7 + 5", 0.0),
        ("twelve", 0.0),
        ("", 0.0),
        (None, 0.0),
        ("112", 0.0),
    ],
)
def test_an_answer_ends_with_the_sum(answer: str | None, reward: float):
    assert score(Problem(7, 5), answer) == reward


def test_no_sum_is_on_both_sides_of_the_split_in_either_order():
    training, held_out = split_problems()
    assert len(training) + len(held_out) == 400
    assert not {frozenset((p.a, p.b)) for p in training} & {frozenset((p.a, p.b)) for p in held_out}


def stopped(**changes: object) -> RunFigures:
    step = StepFigures(1, 0.5, 64, 0, 900, 3.0, 2.0, 1.0, None, "c1", {"loss": 0.1})
    values = {"settings": {"seed": 0}, "model": "m", "steps": [step], "held_out": [HeldOutScore(0, 0.1, 4)], **changes}
    return RunFigures(**values)


def test_a_run_that_was_stopped_is_found_whole_under_the_same_settings_only(tmp_path: Path):
    assert unfinished(tmp_path, {"seed": 0}) is None
    figures = stopped()
    figures.save(tmp_path)
    assert unfinished(tmp_path, {"seed": 0}) == figures
    assert unfinished(tmp_path, {"seed": 1}) is None


@pytest.mark.parametrize("changes", [{"finished": True}, {"steps": []}])
def test_a_run_that_has_ended_or_not_begun_is_not_gone_on_with(changes: dict[str, object], tmp_path: Path):
    stopped(**changes).save(tmp_path)
    assert unfinished(tmp_path, {"seed": 0}) is None


def test_figures_of_another_version_are_no_run_to_go_on_with(tmp_path: Path):
    (tmp_path / "demo.json").write_text('{"settings": {"seed": 0}, "steps": []}')
    assert unfinished(tmp_path, {"seed": 0}) is None
