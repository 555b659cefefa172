"""Curves of many points drawn by few."""

from __future__ import annotations

import random

import pytest

from server.pages.charts.thinning import thinned


@pytest.mark.parametrize("most", [4, 20, 101, 400])
def test_extremes_and_ends_are_kept_in_order(most):
    draw = random.Random(0)
    points = [(float(step), draw.gauss(0, 1)) for step in range(1000)]
    points[317], points[318] = (317.0, 9.0), (318.0, -9.0)
    kept = thinned(points, most)
    assert len(kept) <= most
    assert kept == sorted(kept)
    assert {points[0], points[317], points[318], points[-1]} <= set(kept)


def test_few_points_stay_as_they_are():
    points = [(float(step), 0.0) for step in range(20)]
    assert thinned(points, 20) == points
