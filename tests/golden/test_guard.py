"""The rules on series of real runs: `python -m bench.guard --series tests/golden/guard` wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from server.guard.history import History, Score, Step
from server.guard.rules import RULES

SERIES = Path(__file__).parent / "guard"
HONEST = sorted(SERIES.glob("honest-*.json"))
HACKED = sorted([*SERIES.glob("format-*.json"), *SERIES.glob("length-[0-9].json")])
UNSCORED = sorted(SERIES.glob("length-unscored-*.json"))


def found_at(run: dict[str, Any]) -> dict[str, list[int]]:
    """Each rule, and the steps at which it spoke: at every step, and at every score."""
    steps = [_step(node) for node in run["checkpoints"]]
    scores = sorted((_score(one) for one in run["evals"]), key=lambda score: score.step)
    found = dict[str, list[int]]()
    for end in range(len(steps) + 1):
        before = [score for score in scores if score.step < end]
        for seen in (before, [score for score in scores if score.step <= end]):
            history = History("m", steps[:end], seen)
            for name, rule in RULES.items():
                if rule.find(history, rule.parameters) is not None:
                    found.setdefault(name, []).append(end)
    return found


def _step(node: dict[str, Any]) -> Step:
    std, metrics = node["metrics"].get("reward_std"), node["metrics"]
    return Step(UUID(node["id"]), node["name"], node["step"], node["mean_reward"], std, node["num_traces"], metrics)


def _score(one: dict[str, Any]) -> Score:
    checkpoint_id = UUID(one["checkpoint_id"]) if one["checkpoint_id"] else None
    name = one["checkpoint_name"] or "base"
    return Score(
        UUID(one["id"]), one["benchmark"], checkpoint_id, name, one["step"], one["score"], one["stderr"], one["n"]
    )


@pytest.mark.parametrize("path", HACKED, ids=lambda path: path.stem)
def test_a_gamed_reward_is_flagged_at_the_second_evaluation_after_the_first(path: Path):
    run = json.loads(path.read_text())
    found = found_at(run)
    assert found["held_out"][0] == run["scores"][2][0]
    assert set(found) == {"held_out"}


@pytest.mark.parametrize("path", UNSCORED, ids=lambda path: path.stem)
def test_a_reward_gamed_by_length_shows_in_the_lengths_where_nothing_is_held_out(path: Path):
    run = json.loads(path.read_text())
    assert run["evals"] == []
    assert set(found_at(run)) == {"length"}


@pytest.mark.parametrize("path", HONEST, ids=lambda path: path.stem)
def test_no_rule_speaks_in_an_honest_run(path: Path):
    assert found_at(json.loads(path.read_text())) == {}


def test_there_are_runs_of_every_kind():
    assert min(len(HACKED), len(UNSCORED), len(HONEST)) > 2
