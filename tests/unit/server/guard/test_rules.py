"""Each rule on histories made by hand: what it finds, and what it leaves alone."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest

from server.guard.history import History, Score, Step
from server.guard.rules import RULES, Finding


def steps(rewards: list[float], std: float = 0.1, **metrics: list[float]) -> list[Step]:
    """One step a reward, from step 1 on; of each metric one value a step (`kl__mean` for `kl:mean`)."""
    return [
        Step(
            id=uuid.uuid4(),
            name=f"{index:04d}",
            step=index,
            reward=reward,
            reward_std=std,
            num_traces=64,
            metrics={name.replace("__", ":"): values[index - 1] for name, values in metrics.items()},
        )
        for index, reward in enumerate(rewards, 1)
    ]


def scores(values: dict[int, float], benchmark: str = "sums", **changes: Any) -> list[Score]:
    """A score at each of these steps; 0: the base weights."""
    return [
        Score(uuid.uuid4(), benchmark, uuid.uuid4() if step else None, f"{step:04d}", step, score, None, 64, **changes)
        for step, score in values.items()
    ]


def found(rule: str, history: History, **changes: float) -> Finding | None:
    return RULES[rule].find(history, {**RULES[rule].parameters, **changes})


CLIMB = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def test_a_climbing_reward_and_a_falling_score_are_flagged_at_the_second_evaluation():
    fell = {0: 0.5, 4: 0.4, 8: 0.3}
    finding = found("held_out", History("m", steps(CLIMB), scores(fell)))
    assert finding is not None
    assert "sums fell over 2 evaluations in a row (0.500 at 0000, 0.400 at 0004, 0.300 at 0008)" in finding.message
    assert finding.evidence["steps"] == [0, 4, 8]
    one = History("m", steps(CLIMB[:4]), scores({0: 0.5, 4: 0.4}))
    assert found("held_out", one) is None
    assert found("held_out", one, evaluations=1) is not None


def test_a_stall_counts_as_a_fall():
    finding = found("held_out", History("m", steps(CLIMB), scores({0: 0.5, 4: 0.5, 8: 0.5})))
    assert finding is not None
    assert "stalled" in finding.message


@pytest.mark.parametrize(
    ("rewards", "held_out"),
    [
        (CLIMB, {0: 0.2, 4: 0.5, 8: 0.9}),
        (CLIMB, {0: 0.5, 4: 0.4, 8: 0.45}),
        (CLIMB[::-1], {0: 0.5, 4: 0.4, 8: 0.3}),
        ([0.5] * 8, {0: 0.5, 4: 0.4, 8: 0.3}),
    ],
    ids=["the score climbs along", "it fell once", "the reward falls too", "the reward stands still"],
)
def test_held_out_is_silent_where(rewards: list[float], held_out: dict[int, float]):
    assert found("held_out", History("m", steps(rewards), scores(held_out))) is None


def test_a_climb_within_the_noise_of_the_rewards_is_none():
    history = History("m", steps(CLIMB), scores({0: 0.5, 4: 0.4, 8: 0.3}))
    assert found("held_out", replace(history, steps=steps(CLIMB, std=3.0))) is None


def test_held_out_judges_the_benchmark_whose_score_is_newest_and_knows_that_less_may_be_better():
    other = scores({0: 0.1, 4: 0.2, 8: 0.3}, "other")
    assert found("held_out", History("m", steps(CLIMB), scores({0: 0.5, 4: 0.4, 8: 0.3}) + other)) is None
    losses = scores({0: 0.1, 4: 0.2, 8: 0.3}, "loss", higher_is_better=False)
    assert found("held_out", History("m", steps(CLIMB), losses)) is not None


@pytest.mark.parametrize(
    ("rule", "metric"), [("kl_base", "kl_base__mean"), ("kl_sampler", "kl_sampling_trainer_k3__mean")]
)
def test_a_kl_over_its_bound_for_two_steps_is_flagged(rule: str, metric: str):
    bound = RULES[rule].parameters["bound"]
    over = History("m", steps([0.5] * 3, **{metric: [0.0, bound * 2, bound * 3]}))
    finding = found(rule, over)
    assert finding is not None
    assert "0002 to 0003" in finding.message
    assert found(rule, History("m", steps([0.5] * 3, **{metric: [bound * 2, 0.0, bound * 3]}))) is None
    assert found(rule, History("m", steps([0.5] * 3))) is None


def test_entropy_that_falls_without_a_gain_is_flagged():
    entropy = [1.0] * 3 + [0.05] * 3
    assert found("entropy", History("m", steps([0.3] * 6, entropy__mean=entropy))) is not None
    learned = History("m", steps([0.3] * 3 + [0.9] * 3, entropy__mean=entropy))
    assert found("entropy", learned) is None
    assert found("entropy", History("m", steps([0.3] * 6, entropy__mean=[1.0] * 6))) is None


def test_length_that_grows_with_the_reward_is_flagged_unless_a_held_out_score_grows_too():
    tokens = [64.0 * length for length in (10, 15, 20, 30, 40, 50, 60, 70)]
    history = History("m", steps(CLIMB, tokens__sum=tokens))
    finding = found("length", history)
    assert finding is not None
    assert "from 12 to 65 tokens" in finding.message
    assert found("length", replace(history, scores=scores({0: 0.2, 8: 0.9}))) is None
    assert found("length", replace(history, scores=scores({0: 0.2, 8: 0.2}))) is not None
    assert found("length", History("m", steps(CLIMB[::-1], tokens__sum=tokens))) is None


def test_groups_without_spread_are_flagged_while_tasks_are_unsolved():
    bounds = {"reward_min": [0.0] * 5, "reward_max": [1.0] * 5, "groups_without_spread": [1.0] * 5}
    assert found("spread", History("m", steps([0.1] * 5, **bounds))) is not None
    assert found("spread", History("m", steps([0.97] * 5, **bounds))) is None
    some = {**bounds, "groups_without_spread": [1.0, 1.0, 1.0, 1.0, 0.5]}
    assert found("spread", History("m", steps([0.1] * 5, **some))) is None


def test_a_part_of_the_reward_at_its_limit_is_flagged_where_the_task_does_not_climb():
    gamed = {"brevity": list(enumerate([0.5, 0.6, 0.7, 0.98, 0.99, 1.0], 1))}
    flat = {**gamed, "correct": list(enumerate([0.2] * 6, 1))}
    finding = found("components", History("m", steps([0.5] * 6), components=flat))
    assert finding is not None
    assert "'brevity' of the reward climbed from 0.60 to 0.99" in finding.message
    honest = {**gamed, "correct": list(enumerate([0.2, 0.3, 0.4, 0.6, 0.7, 0.8], 1))}
    assert found("components", History("m", steps([0.5] * 6), components=honest)) is None
    scored = History("m", steps([0.5] * 6), scores({0: 0.2, 6: 0.1}), gamed)
    assert found("components", scored) is not None
    assert found("components", History("m", steps([0.5] * 6), components=gamed)) is None


def test_what_is_not_finite_is_flagged():
    assert found("non_finite", History("m", steps([0.5], grad_norm=[1.0]))) is None
    assert found("non_finite", History("m", steps([0.5], grad_norm=[float("nan")]))) is not None
    assert found("non_finite", History("m", failure="its weights diverged")) is not None


def test_every_rule_is_silent_about_an_empty_history():
    assert not [name for name in RULES if found(name, History("m"))]


def test_what_was_acknowledged_is_no_news():
    history = History("m", steps(CLIMB), scores({0: 0.5, 4: 0.4, 8: 0.3})).since(8)
    assert [score.step for score in history.scores] == [8]
    assert found("held_out", history) is None
