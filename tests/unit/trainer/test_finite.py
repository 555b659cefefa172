from __future__ import annotations

import math

import pytest
import torch

from trainer.engine.finite import all_finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 500, 1000])
def test_one_bad_value_is_found_wherever_it_is(bad: float, at: int) -> None:
    values = torch.linspace(-1, 1, 1001)
    assert all_finite(values)
    values[at] = bad
    assert not all_finite(values)
    assert all_finite(values[:0])
