"""What follows from a run's settings alone."""

from __future__ import annotations

import uuid

import pytest

from server.runs.schedule import is_evaluated_after, learning_rate, rollout_seed, tasks_in_turn, trace_id
from server.runs.settings import RunConfig


def rates(**changes) -> list[float]:
    config = RunConfig(steps=5, learning_rate=1.0, **changes)
    return [learning_rate(config, step) for step in range(1, 6)]


def test_learning_rates():
    assert rates() == [1.0] * 5
    assert rates(warmup_steps=3) == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates(lr_schedule="linear") == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert rates(lr_schedule="linear", warmup_steps=1) == pytest.approx([0.5, 1.0, 0.75, 0.5, 0.25])
    assert rates(lr_schedule="cosine") == pytest.approx([1.0, 0.904508, 0.654508, 0.345492, 0.095492], abs=1e-6)
    assert rates(lr_schedule="cosine", warmup_steps=5)[-1] < 1.0


def test_every_epoch_has_each_task_once_in_an_order_of_its_own():
    turns = tasks_in_turn(0, 10, 0, 40)
    epochs = [turns[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert tasks_in_turn(0, 10, 7, 6) == turns[7:13]
    assert tasks_in_turn(1, 10, 0, 10) != epochs[0]


def test_seeds_and_ids_are_those_of_their_places():
    places = [
        (step, purpose, position) for step in (1, 2) for purpose in ("train", "held_out") for position in range(8)
    ]
    seeds = {rollout_seed(0, *place, draw) for place in places for draw in (0, 1)}
    assert len(seeds) == 2 * len(places)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert rollout_seed(0, 1, "train", 3, 0) == rollout_seed(0, 1, "train", 3, 0)
    run = uuid.uuid4()
    assert trace_id(run, 5, 1, "train", 3, 1) == trace_id(run, 5, 1, "train", 3, 1)
    others = {
        trace_id(run, 5, 1, "train", 3, 2),
        trace_id(run, 6, 1, "train", 3, 1),
        trace_id(run, 5, 1, "train", 4, 1),
    }
    assert trace_id(run, 5, 1, "train", 3, 1) not in others


def test_evaluations_come_first_every_n_steps_and_last():
    assert [step for step in range(13) if is_evaluated_after(5, 12, step)] == [0, 5, 10, 12]
