"""Which tasks a step is about."""

from __future__ import annotations

from server.runs.loop.curriculum import spread_first


def test_tasks_whose_groups_disagree_come_before_others_in_the_order_of_their_turns():
    advice = ["drop", "keep", "make_harder", "look", "unknown", "keep"]
    chosen = spread_first([2, 0, 5, 3, 1, 4], 3, advice)
    assert chosen == [{"task": 5, "why": "keep"}, {"task": 1, "why": "keep"}, {"task": 4, "why": "unknown"}]


def test_what_is_passed_over_has_its_turn_again():
    advice = ["keep", "keep", "keep", "keep", "keep", "drop", "drop", "drop"]
    chosen = spread_first([5, 6, 7, 0, 1, 2, 3, 4], 4, advice)
    assert chosen[0] == {"task": 5, "why": "in turn"}
    assert [one["task"] for one in chosen[1:]] == [0, 1, 2]


def test_where_all_tasks_are_saturated_they_come_in_turn():
    chosen = spread_first([3, 1, 0, 2], 2, ["drop"] * 4)
    assert [one["task"] for one in chosen] == [3, 1]
